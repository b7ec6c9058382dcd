"""The console's site: who may enter, the pages that belong to no table, and where everything hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AnonymousUser
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from smcp.console.pages import dashboard, deploy
from smcp.stack.operator import EMAIL

if TYPE_CHECKING:  # the theme's class is Django's with more in its context, and has no types
    from django.contrib.admin import AdminSite as UnfoldAdminSite
else:
    from unfold.sites import UnfoldAdminSite


class ConsoleSite(UnfoldAdminSite):
    """Operators only: active people with `is_staff`. What they may do there is decided by the operations they call."""

    site_title = "SMCP"
    index_title = "Dashboard"
    login_template = "console/login.html"
    index_template = "console/dashboard.html"
    password_change_template = "console/password.html"  # noqa: S105 - a page
    password_change_done_template = "console/password_done.html"  # noqa: S105 - a page
    logout_template = "console/signed_out.html"

    def has_permission(self, request: HttpRequest) -> bool:
        return (
            not isinstance(request.user, AnonymousUser) and request.user.is_active and request.user.is_staff
        )

    def extra_urls(self) -> list[URLPattern]:
        return [
            path("live/", self.admin_view(self.live), name="console_live"),
            path("deploy/", self.admin_view(self.deploy), name="console_deploy"),
        ]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        context = {**self.each_context(request), **dashboard.context(), "title": "Dashboard"}
        return TemplateResponse(request, "console/dashboard.html", context)

    def live(self, request: HttpRequest) -> TemplateResponse:
        """The dashboard's moving part, for the page to fetch again."""
        return TemplateResponse(request, "console/parts/dashboard.html", dashboard.context())

    def deploy(self, request: HttpRequest) -> HttpResponse:
        return deploy.page(self, request)

    def password_change(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        about: dict[str, Any] = {
            "title": "Change your password",
            "is_set_at_start": request.user.get_username() == EMAIL,
        }
        return super().password_change(request, {**(extra_context or {}), **about})

    def password_change_done(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        return super().password_change_done(
            request, {**(extra_context or {}), "title": "Your password was changed"}
        )

    def app_index(
        self, request: HttpRequest, app_label: str, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """Django lists the tables of an app here; the menu says it better."""
        raise Http404
