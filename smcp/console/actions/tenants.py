"""Tenants, their members and their keys."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from smcp.common.errors import DomainError
from smcp.common.tenancy import as_system
from smcp.console.actions.answers import act, actor_of, refuse
from smcp.console.forms import KeyForm, MemberForm, TenantForm
from smcp.console.listing import url_of
from tenants import operations
from tenants.models import Tenant

_MADE = "keys_made"  # in the session: the forms that have made their key


def create(site: AdminSite, request: HttpRequest) -> HttpResponse:
    form = TenantForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            with as_system():
                tenant = operations.create_tenant(
                    actor=actor_of(request), slug=form.cleaned_data["slug"], name=form.cleaned_data["name"]
                )
        except DomainError as exc:
            form.take(exc)
        else:
            messages.success(
                request, f"Tenant “{tenant.name}” is there. Its servers will live under /{tenant.slug}/."
            )
            return redirect(url_of(tenant))
    return TemplateResponse(
        request,
        "console/form.html",
        {
            **site.each_context(request),
            "title": "Create a tenant",
            "crumbs": [("Tenants", reverse("admin:tenants_tenant_changelist"))],
            "form": form,
            "submit": "Create the tenant",
            "back": reverse("admin:tenants_tenant_changelist"),
        },
    )


def suspend(request: HttpRequest, object_id: str) -> HttpResponse:
    tenant = get_object_or_404(Tenant, pk=object_id)
    reason = request.POST.get("reason", "").strip()
    if request.method == "POST" and not 0 < len(reason) <= 300:
        return refuse(
            request, "Give a reason of at most 300 characters: callers will read it.", back=url_of(tenant)
        )
    return act(
        request,
        lambda: operations.suspend_tenant(
            tenant_id=tenant.id, actor=actor_of(request), reason=reason, now=timezone.now()
        ),
        back=url_of(tenant),
        done=f"{tenant.name} is suspended. Its endpoints answer 403 with the reason.",
    )


def resume(request: HttpRequest, object_id: str) -> HttpResponse:
    tenant = get_object_or_404(Tenant, pk=object_id)
    return act(
        request,
        lambda: operations.resume_tenant(tenant_id=tenant.id, actor=actor_of(request)),
        back=url_of(tenant),
        done=f"{tenant.name} is active again.",
    )


def add_member(request: HttpRequest, object_id: str) -> HttpResponse:
    tenant = get_object_or_404(Tenant, pk=object_id)
    form = MemberForm(request.POST or None)
    if request.method == "POST" and not form.is_valid():
        first = next(iter(form.errors.values()))[0]
        return refuse(request, str(first), back=url_of(tenant))
    return act(
        request,
        lambda: operations.add_member(
            tenant_id=tenant.id,
            actor=actor_of(request),
            email=form.cleaned_data["email"],
            role=form.cleaned_data["role"],
        ),
        back=url_of(tenant),
        done=f"{form.cleaned_data['email']} is a member of {tenant.name} now." if form.is_bound else "",
    )


def create_key(site: AdminSite, request: HttpRequest, object_id: str) -> HttpResponse:
    """The answer to the POST is the only page that ever shows the key; it is not stored anywhere, so it cannot be opened again.

    A browser that loads that page again sends the same form again: that makes no second key.
    """
    tenant = get_object_or_404(Tenant, pk=object_id)
    form = KeyForm(request.POST or None, tenant=tenant)
    context = {
        **site.each_context(request),
        "title": "Create an API key",
        "crumbs": [
            ("Tenants", reverse("admin:tenants_tenant_changelist")),
            (tenant.name, url_of(tenant)),
        ],
        "tenant": tenant,
        "form": form,
        "submit": "Create the key",
        "back": url_of(tenant),
    }
    if request.method == "POST" and form.is_valid():
        if form.cleaned_data["once"] in request.session.get(_MADE, []):
            messages.warning(
                request,
                "The key was made the first time, and is shown only once. If you have not copied it, revoke it and create another one.",
            )
            return redirect(f"{url_of(tenant)}#keys")
        try:
            key, secret = operations.create_api_key(
                tenant_id=tenant.id,
                actor=actor_of(request),
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                environments=form.cleaned_data.get("environments", []),
                expires_at=form.expires_at(),
                now=timezone.now(),
            )
        except DomainError as exc:
            form.take(exc)
        else:
            request.session[_MADE] = [*request.session.get(_MADE, []), form.cleaned_data["once"]][-20:]
            return TemplateResponse(
                request,
                "console/key.html",
                {**context, "title": "Copy the key now", "key": key, "secret": secret},
            )
    return TemplateResponse(request, "console/form.html", context)


def revoke_key(request: HttpRequest, object_id: str, key_id: str) -> HttpResponse:
    tenant = get_object_or_404(Tenant, pk=object_id)
    return act(
        request,
        lambda: operations.revoke_api_key(
            tenant_id=tenant.id, actor=actor_of(request), api_key_id=key_id, now=timezone.now()
        ),
        back=f"{url_of(tenant)}#keys",
        done="The key is revoked. The gateway refuses it from now on.",
    )
