"""Which compatibility dates and flags a tenant may choose: those of the runtime we pin, without its experiments.

Source: https://developers.cloudflare.com/workers/configuration/compatibility-flags/
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Final

from smcp.common.errors import Invalid

#: workerd refuses a date later than its build. Goes up with the version in edge/package.json.
RUNTIME_DATE: Final = date(2026, 11, 17)
EARLIEST_DATE: Final = date(2021, 11, 2)  # Cloudflare's first

FLAGS: Final = frozenset(
    [
        "allow_custom_ports",
        "assets_navigation_prefers_asset_serving",
        "blob_standard_mime_type",
        "brotli_content_encoding",
        "cache_option_enabled",
        "capture_async_api_throws",
        "crypto_preserve_public_exponent",
        "delete_all_deletes_alarm",
        "disable_ctx_exports",
        "disable_navigator_language",
        "disable_request_signal",
        "enable_abortsignal_rpc",
        "enable_ctx_exports",
        "enable_navigator_language",
        "enable_nodejs_fs_module",
        "enable_nodejs_global_timers",
        "enable_nodejs_http_modules",
        "enable_nodejs_os_module",
        "enable_nodejs_process_v2",
        "enable_request_signal",
        "enable_weak_ref",
        "export_commonjs_default",
        "export_commonjs_namespace",
        "expose_global_message_channel",
        "fetch_refuses_unknown_protocols",
        "fetch_standard_url",
        "formdata_parser_supports_files",
        "global_fetch_strictly_public",
        "global_navigator",
        "handle_cross_request_promise_resolution",
        "http_headers_getsetcookie",
        "internal_stream_byob_return_view",
        "internal_writable_stream_abort_clears_queue",
        "minimal_subrequests",
        "no_cf_botmanagement_default",
        "no_global_navigator",
        "no_handle_cross_request_promise_resolution",
        "no_nodejs_als",
        "no_nodejs_compat",
        "no_nodejs_compat_v2",
        "no_request_signal_passthrough",
        "nodejs_als",
        "nodejs_compat",
        "nodejs_compat_do_not_populate_process_env",
        "nodejs_compat_populate_process_env",
        "nodejs_compat_v2",
        "nodejs_zlib",
        "request_signal_passthrough",
        "set_tostring_tag",
        "streams_byob_reader_detaches_buffer",
        "streams_enable_constructors",
        "strict_compression_checks",
        "strict_crypto_checks",
        "transformstream_enable_standard_constructor",
        "unwrap_custom_thenables",
        "upper_case_all_http_methods",
        "url_original",
        "url_standard",
        "urlsearchparams_delete_has_value_arg",
        "workers_api_getters_setters_on_prototype",
    ]
)


class CompatibilityRefused(Invalid):
    code = "compatibility-refused"
    title = "This compatibility date or flag cannot be used"


def check_date(text: object, *, now: datetime) -> date:
    """`YYYY-MM-DD`, between Cloudflare's first and what both today and our runtime allow. Raises CompatibilityRefused."""
    today = now.date()
    latest = min(RUNTIME_DATE, today)
    try:
        if not isinstance(text, str) or len(text) != 10:
            raise ValueError(text)
        chosen = date.fromisoformat(text)
    except ValueError as exc:
        raise _refused("compatibility_date", "Must be a day of the calendar, as YYYY-MM-DD.") from exc
    if not EARLIEST_DATE <= chosen <= latest:
        why = f"Must be from {EARLIEST_DATE} to {latest}"
        ends = ", where the runtime that is installed here ends." if latest < today else ", which is today."
        raise _refused("compatibility_date", why + ends)
    return chosen


def check_flags(flags: object) -> tuple[str, ...]:
    """Known, not experimental, each once, in the order given. Raises CompatibilityRefused."""
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise _refused("compatibility_flags", "Must be a list of names.")
    for flag in flags:
        if flag == "experimental" or "experimental" in flag:
            raise _refused("compatibility_flags", "Experimental flags are not offered.")
        if "python" in flag:
            raise _refused("compatibility_flags", "Python Workers are not offered.")
        if flag not in FLAGS:
            raise _refused("compatibility_flags", f"“{flag[:80]}” is not offered.")
    if len(set(flags)) != len(flags):
        raise _refused("compatibility_flags", "Each flag once.")
    return tuple(flags)


def _refused(field: str, why: str) -> CompatibilityRefused:
    return CompatibilityRefused(fields={f"metadata.{field}": why})
