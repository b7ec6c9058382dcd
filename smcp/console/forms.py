"""The console's forms: they check shapes, operations check meaning, and both speak at the field."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminEmailInputWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from hosting.models import Environment
from smcp.common.errors import DomainError
from smcp.common.ids import new_id
from smcp.common.slugs import SERVER_SLUG_MAX, TENANT_SLUG_MAX, validate_slug, validate_tenant_slug
from tenants.models import ApiKey, Member, Tenant


class ConsoleForm(forms.Form):
    def take(self, error: DomainError) -> None:
        """Puts an operation's refusal where the person typed."""
        placed = False
        for name, why in error.fields.items():
            if name in self.fields:
                self.add_error(name, why)
                placed = True
        if not placed:
            self.add_error(None, str(error))


class TenantForm(ConsoleForm):
    name = forms.CharField(
        max_length=120,
        label="Name",
        help_text="As people know the organisation. Can be changed later.",
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "Acme Corporation", "autofocus": True}),
    )
    slug = forms.CharField(
        max_length=TENANT_SLUG_MAX,
        label="Slug",
        validators=[validate_tenant_slug],
        help_text="Part of every endpoint of this tenant. Lowercase letters, digits and hyphens. Never changes, never given again.",
        widget=UnfoldAdminTextInputWidget(
            attrs={"placeholder": "acme", "data-slug-from": "name", "spellcheck": "false"}
        ),
    )


class MemberForm(ConsoleForm):
    email = forms.EmailField(
        label="E-mail address",
        help_text="The person must have an account already.",
        widget=UnfoldAdminEmailInputWidget(attrs={"placeholder": "ada@example.com", "autofocus": True}),
    )
    role = forms.ChoiceField(
        label="Role",
        choices=Member.Role.choices,
        initial=Member.Role.DEVELOPER,
        widget=UnfoldAdminSelectWidget,
    )


class KeyForm(ConsoleForm):
    """Either a key for the REST API or a key that calls MCP servers, never both."""

    _EXPIRY = (("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year"), ("", "Never"))

    once = forms.CharField(
        max_length=26, initial=new_id, widget=forms.HiddenInput
    )  # of one filling-in of the form
    name = forms.CharField(
        max_length=120,
        label="Name",
        help_text="What it is for, so that somebody can revoke the right one later.",
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "Claude on Ada's laptop", "autofocus": True}),
    )
    scopes = forms.MultipleChoiceField(
        label="Scopes",
        choices=ApiKey.Scope.choices,
        initial=[ApiKey.Scope.MCP_CALL],
        help_text="A key either calls MCP servers or opens the REST API. No key does both.",
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    environments = forms.MultipleChoiceField(
        label="Only these environments",
        required=False,
        help_text="For keys that call MCP servers. Choose none for all of the tenant's.",
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    expires = forms.ChoiceField(
        label="Expires",
        choices=_EXPIRY,
        initial="90",
        required=False,
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, *args: Any, tenant: Tenant, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["environments"].choices = [  # type: ignore[attr-defined]
            (e.id, f"{e.server.slug} / {e.slug}")
            for e in Environment.objects.filter(tenant=tenant, state=Environment.State.ACTIVE)
            .select_related("server")
            .order_by("server__slug", "slug")
        ]
        if not self.fields["environments"].choices:  # type: ignore[attr-defined]
            del self.fields["environments"]

    def expires_at(self) -> Any:
        days = self.cleaned_data.get("expires")
        return timezone.now() + timedelta(days=int(days)) if days else None


class DeployForm(ConsoleForm):
    tenant = forms.ChoiceField(
        label="Tenant",
        help_text="Whose server it will be.",
        widget=UnfoldAdminSelectWidget,
    )
    entry = forms.ChoiceField(label="Server from the catalog", widget=forms.RadioSelect)
    slug = forms.CharField(
        max_length=SERVER_SLUG_MAX,
        label="Slug",
        validators=[validate_slug],
        help_text="Part of the endpoint. Lowercase letters, digits and hyphens. Never changes.",
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "starter", "spellcheck": "false"}),
    )
    name = forms.CharField(
        max_length=120,
        label="Name",
        required=False,
        help_text="As people know the server. Left empty, the slug is used.",
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "Starter"}),
    )

    def __init__(self, *args: Any, entries: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["entry"].choices = entries  # type: ignore[attr-defined]
        self.fields["tenant"].choices = [  # type: ignore[attr-defined]
            (t.id, f"{t.name} ({t.slug})") for t in Tenant.objects.filter(state=Tenant.State.ACTIVE)
        ]
