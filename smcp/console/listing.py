"""What all list and detail pages share: nothing is edited here, every change is a named action that calls an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import Count, Model
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

if TYPE_CHECKING:  # the theme's class is Django's with a few attributes more, and has no types
    from django.contrib.admin import ModelAdmin
else:
    from unfold.admin import ModelAdmin

Cell = TypeVar("Cell", bound=Callable[..., Any])


def column(title: str, *, ordering: Any = None, two_lines: bool = False) -> Callable[[Cell], Cell]:
    """Makes a method a list's column. `two_lines`: it returns (first, second), shown one above the other."""

    def mark(cell: Cell) -> Cell:
        marked: Any = cell
        marked.short_description = title
        marked.header = two_lines
        if ordering is not None:
            marked.admin_order_field = ordering
        return cell

    return mark


class ConsoleAdmin(ModelAdmin):
    """A list that links to a page. Subclasses set `page` (what a detail page shows) and `page_template`, or neither.

    `chips`: the field whose values stand above the list, each with its count, as one-click filters.
    """

    list_title = ""
    nouns: tuple[str, str] | None = (
        None  # what its rows are called: (one, many); the model's own words when absent
    )
    chips: str = ""
    chips_family: str = ""
    tabs: Sequence[tuple[str, str]] = ()  # (label, URL name) of the lists that belong together
    list_button: tuple[str, str] | None = None  # (label, URL name) in the header
    empty_title = "Nothing here yet"
    empty_text = ""
    empty_link: tuple[str, str] | None = None  # (label, URL name)
    page_template = ""
    list_per_page = 50
    list_display_links: tuple[str, ...] | None = None
    actions = None
    show_full_result_count = False
    list_before_template = "console/parts/chips.html"
    change_list_template = "console/list.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return bool(self.admin_site.has_permission(request))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Pages link to lists narrowed by these; everything else stays Django's decision."""
        return lookup in _NARROWING or super().lookup_allowed(lookup, value, request)

    def get_urls(self) -> list[URLPattern]:
        """Only the pages there are: the list, and one object. No history, no delete, no add."""
        model = f"{self.opts.app_label}_{self.opts.model_name}"
        view = self.admin_site.admin_view
        urls = [path("", view(self.changelist_view), name=f"{model}_changelist")]
        for suffix, name, action in self.posts():
            urls.append(path(f"<str:object_id>/{suffix}/", view(action), name=name))
        urls.append(path("<str:object_id>/", view(self.page_view), name=f"{model}_change"))
        return urls

    def posts(self) -> Sequence[tuple[str, str, Callable[..., HttpResponse]]]:
        """(path below the object, URL name, view) of its actions and fragments."""
        return ()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        here = f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"
        extra = {
            "title": self.title(),
            "chips": self._chips(request),
            "tabs": [(label, reverse(name), name == here) for label, name in self.tabs],
        }
        answer: HttpResponse = super().changelist_view(request, {**extra, **(extra_context or {})})
        return answer

    def page_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        obj = self.get_queryset(request).filter(pk=object_id).first()
        if obj is None or not self.page_template:
            raise Http404
        context = {
            **self.admin_site.each_context(request),
            "crumbs": [(self.title(), self.list_url())],
            **self.page(request, obj),
        }
        return TemplateResponse(request, self.page_template, context)

    def page(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """What the detail page shows; at least `title`."""
        return {}

    def one(self) -> str:
        return self.nouns[0] if self.nouns else str(self.opts.verbose_name)

    def many(self) -> str:
        return self.nouns[1] if self.nouns else str(self.opts.verbose_name_plural)

    def title(self) -> str:
        return self.list_title or str(self.opts.verbose_name_plural).capitalize()

    def list_url(self) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def _chips(self, request: HttpRequest) -> list[dict[str, Any]]:
        if not self.chips:
            return []
        field = self.model._meta.get_field(self.chips)
        lookup = f"{self.chips}__exact"
        counts = self._chip_counts(request, lookup)
        now = request.GET.get(lookup)

        def url(value: str | None) -> str:
            query = request.GET.copy()
            for gone in (lookup, "p"):
                query.pop(gone, None)
            if value is not None:
                query[lookup] = value
            return f"?{query.urlencode()}"

        chips = [{"label": "All", "n": sum(counts.values()), "url": url(None), "on": now is None}]
        for value, label in field.flatchoices:
            if counts.get(value) or now == value:
                chips.append(
                    {
                        "label": label,
                        "n": counts.get(value, 0),
                        "url": url(value),
                        "on": now == value,
                        "family": self.chips_family,
                        "value": value,
                    }
                )
        return chips

    def _chip_counts(self, request: HttpRequest, lookup: str) -> dict[str, int]:
        """How many rows the list would show for each value: with the search and all other filters, without this one."""
        without = copy(request)
        query = request.GET.copy()
        for gone in (lookup, "p"):
            query.pop(gone, None)
        without.GET = query  # type: ignore[assignment]
        try:
            listed = self.get_changelist_instance(without).queryset
        except IncorrectLookupParameters:  # the list itself says so
            return {}
        rows = self.model._default_manager.filter(pk__in=listed.order_by().values("pk")).order_by()
        return dict(rows.values_list(self.chips).annotate(n=Count("pk")).values_list(self.chips, "n"))


_NARROWING = frozenset(
    [
        "tenant__id__exact",
        "server__id__exact",
        "environment__id__exact",
        "account__id__exact",
        "kind__exact",
        "state__exact",
    ]
)


def link_to(obj: Model | None, text: str = "", *, strong: bool = False) -> SafeString:
    """A link to an object's page."""
    if obj is None:
        return format_html('<span class="c-none">{}</span>', "—")
    return format_html(
        '<a class="c-link{}" href="{}">{}</a>', " c-strong" if strong else "", url_of(obj), text or str(obj)
    )


def url_of(obj: Model) -> str:
    return reverse(f"admin:{obj._meta.app_label}_{obj._meta.model_name}_change", args=[obj.pk])
