"""What can be wrong with a script or an upload, in Cloudflare's codes for Workers.

Sources: https://developers.cloudflare.com/workers/platform/limits/, and for the codes what the real service answers (wrangler prints it).
"""

from __future__ import annotations

from edge.envelope import ApiError


class ScriptError(ApiError):
    """NotFound (404) · InvalidUpload (400) · UploadTooLarge (413) · NamespaceNotFound (404) · SecretNotFound (404).

    All are permanent: the same request meets the same answer. Nothing was changed.
    """


class InvalidUpload(ScriptError):
    """The upload breaks a rule; `code` says which family of rules, 10021 where Cloudflare has no closer one."""

    def __init__(self, message: str, code: int = 10021) -> None:
        super().__init__(400, code, message)


class UploadTooLarge(ScriptError):
    def __init__(self, message: str) -> None:
        super().__init__(413, 10027, message)


class NotFound(ScriptError):
    """No such script: 10092 in a dispatch namespace, 10007 outside, 10090 when asked for as a service."""

    def __init__(self, *, in_namespace: bool = False, as_service: bool = False) -> None:
        if in_namespace:
            super().__init__(404, 10092, "workers.api.error.dispatch_script_not_found")
        elif as_service:
            super().__init__(404, 10090, "workers.api.error.service_not_found")
        else:
            super().__init__(404, 10007, "This Worker does not exist on your account.")


class NamespaceNotFound(ScriptError):
    def __init__(self) -> None:
        super().__init__(404, 100119, "workers.api.error.dispatch_namespace_not_found")


class SecretNotFound(ScriptError):
    def __init__(self, name: str) -> None:
        super().__init__(404, 10056, f"Binding '{name}' not found.")
