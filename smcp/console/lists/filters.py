"""Filters beside the lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.admin import FieldListFilter
from django.contrib.admin.views.main import ChangeList
from django.db.models import Field, Model
from django.http import HttpRequest
from django.utils.datastructures import MultiValueDict


class Present(FieldListFilter):
    """By the values of a text field that rows really have, called as the field's choices call them; no filter where all rows have the same."""

    def __init__(
        self,
        field: Field[Any, Any],
        request: HttpRequest,
        params: dict[str, list[str]],
        model: type[Model],
        model_admin: Any,
        field_path: str,
    ) -> None:
        self.lookup_kwarg = f"{field_path}__exact"
        self.lookup_val = MultiValueDict(params).get(self.lookup_kwarg)
        super().__init__(field, request, params, model, model_admin, field_path)
        labels = dict(field.flatchoices)
        values = model._default_manager.order_by(field_path).values_list(field_path, flat=True).distinct()
        self.distinct = list(values)
        self.present = [(str(value), str(labels.get(value, value))) for value in self.distinct if value]

    def has_output(self) -> bool:
        return len(self.distinct) > 1 or self.lookup_val is not None

    def expected_parameters(self) -> list[str | None]:
        return [self.lookup_kwarg]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        yield {
            "selected": self.lookup_val is None,
            "query_string": changelist.get_query_string(remove=[self.lookup_kwarg]),
            "display": "All",
        }
        for value, label in self.present:
            yield {
                "selected": value == self.lookup_val,
                "query_string": changelist.get_query_string({self.lookup_kwarg: value}),
                "display": label,
            }
