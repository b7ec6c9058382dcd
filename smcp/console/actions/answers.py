"""How every action answers: one sentence on the next page, whether it worked or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme

from smcp.common.errors import DomainError

T = TypeVar("T")


def actor_of(request: HttpRequest) -> str:
    return f"user:{request.user.pk}"


def act(
    request: HttpRequest,
    do: Callable[[], T],
    *,
    back: str,
    done: str,
    onward: Callable[[T], str] | None = None,
) -> HttpResponse:
    """Runs `do` for a POST and goes `back`, or `onward` when it worked. A DomainError becomes a sentence; nothing else is caught."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    try:
        result = do()
    except DomainError as exc:
        messages.error(request, sentence(exc))
        return redirect(back)
    if done:
        messages.success(request, done)
    return redirect(onward(result) if onward else back)


def sentence(error: DomainError) -> str:
    """What a person reads: the error, and what is wrong with which field."""
    text = str(error).rstrip(".") + "."
    extra = [
        f"{name.replace('_', ' ').capitalize()}: {why}"
        for name, why in error.fields.items()
        if why not in text
    ]
    return " ".join([text, *extra])


def refuse(request: HttpRequest, text: str, *, back: str) -> HttpResponse:
    messages.error(request, text)
    return redirect(back)


def came_from(request: HttpRequest, default: str) -> str:
    """The page the form was on, when it is one of ours."""
    url: Any = request.POST.get("back", "")
    if url and url_has_allowed_host_and_scheme(url, allowed_hosts={request.get_host()}):
        return str(url)
    return default
