"""Deploy from the catalog: choose whose, which, and under what slug; land on the live operation."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from hosting.catalog.catalog import list_entries
from smcp.common.errors import DomainError
from smcp.console.actions.answers import actor_of
from smcp.console.actions.catalog import deploy_entry
from smcp.console.forms import DeployForm
from smcp.console.listing import url_of


def page(site: AdminSite, request: HttpRequest) -> HttpResponse:
    entries = list_entries()
    form = DeployForm(
        request.POST or None,
        entries=[(e.slug, e.title) for e in entries],
        initial={
            "tenant": request.GET.get("tenant", ""),
            "entry": request.GET.get("entry") or (entries[0].slug if entries else ""),
            "slug": entries[0].slug if entries else "",
            "name": entries[0].title if entries else "",
        },
    )
    if request.method == "POST" and form.is_valid():
        wish = form.cleaned_data
        try:
            operation = deploy_entry(
                tenant_id=wish["tenant"],
                actor=actor_of(request),
                entry_slug=wish["entry"],
                slug=wish["slug"],
                name=wish["name"] or wish["slug"],
            )
        except DomainError as exc:
            form.take(exc)
        else:
            return redirect(url_of(operation))
    context = {
        **site.each_context(request),
        "title": "Deploy from the catalog",
        "entries": entries,
        "form": form,
    }
    return TemplateResponse(request, "console/deploy.html", context)
