"""The only door between the planes: what the control plane tells the data plane, and what comes back.

The control plane publishes *facts* (a Route, a Credential, a Suspension). Each fact has a key and a version that only
grows. The current facts stand in one Redis hash, every change also goes on one Redis stream, both in one transaction, so a
node reads the stream's end, then the hash, then follows the stream: nothing can be missed in between. A node that fell off
the end of the trimmed stream, or sees another `epoch`, starts again from the hash. Applying a fact twice, or an older one
after a newer one, changes nothing.

Reports go back on one typed stream. Nothing here does I/O.

If the publisher crashes half-way, the transaction did not happen and the sweep publishes again. If a node crashes, it
reads the hash again (or its last good copy on disk when Redis is away).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Era = Literal["legacy", "modern"]

# ── Facts: control plane → data plane ────────────────────────────────────────────────────────────────────────────────


class Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact", omit_defaults=True):
    """One thing the data plane must know. `version` grows with every change; `is_gone` marks the last one."""

    tenant: str  # ULID
    version: int
    is_gone: bool = False


class Remote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server that runs elsewhere. `headers` go with every request; who seals and opens them: remotes.py."""

    url: str
    transport: Literal["streamable-http", "sse"] = "streamable-http"
    headers: str = ""  # sealed; empty: none


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One Release that takes a share of an Environment's traffic, or the server elsewhere that takes all of it."""

    script: str = ""  # the script's name at Cloudflare; empty for a `remote`
    release: str  # ULID; of a `remote`: of its URL, so that sessions know whether it still is the server they were opened at
    weight: int  # basis points; the weights of a Route add up to 10,000
    eras: tuple[Era, ...] = ("legacy", "modern")  # what the upstream speaks, as the deploy's probe saw it
    issues_sessions: bool = False  # the upstream answers `initialize` with an Mcp-Session-Id
    path: str = "/mcp"  # where the code serves MCP
    egress: tuple[str, ...] = ()  # host:port the code may fetch, for the outbound Worker
    remote: Remote | None = None  # in the place of a script: no dispatcher, no assertion


class Dispatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to reach the dispatcher Worker of the account an Environment lives in."""

    url: str  # origin to connect to, e.g. https://smcp-x-dispatcher.acme.workers.dev
    host: str = ""  # Host header, when it is not the one of `url` (the local edge)
    audience: str  # `aud` the dispatcher expects in an assertion


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bounds of one Environment. Sizes in bytes, times in seconds."""

    request_bytes: int = 4 * 1024 * 1024
    response_bytes: int = 16 * 1024 * 1024  # of a JSON answer; streams are bounded per event
    event_bytes: int = 4 * 1024 * 1024
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 120.0  # until the first byte of an answer
    answer_budget_s: float = (
        240.0  # from the request's start to the end of a JSON answer, or the head of a stream
    )
    stream_idle_s: float = 300.0  # an upstream silent for longer is given up
    concurrency: int = 256  # requests in flight per node, and as many listening streams
    queue: int = 64  # requests that wait for a place among them; 0: none does
    queue_wait_s: float = 5.0
    requests_per_minute: int = 1000


class Route(Fact, frozen=True, kw_only=True, omit_defaults=True, tag="route"):
    """What the data plane knows of an Environment."""

    environment: str  # ULID
    tenant_slug: str
    server_slug: str
    environment_slug: str
    targets: tuple[Target, ...] = ()  # empty: nothing deployed yet
    dispatch: Dispatch | None = None
    access: tuple[Literal["public", "api_key"], ...] = ("api_key",)  # any one of these lets a caller in
    limits: Limits = Limits()
    allowed_origins: tuple[str, ...] = ()  # browser origins besides our own; "*" allows all
    heals: bool = True  # a session that the server has lost is opened anew; otherwise the client is told 404
    sessions_after: int = 0  # whole seconds since the epoch: sessions issued until then have ended
    modern_clients: Literal["auto", "bridge", "decline"] = "auto"  # before a server that speaks legacy only
    other_paths: bool = False  # per-server hosts may carry paths other than MCP's

    @property
    def key(self) -> str:
        return f"route/{self.environment}"


class Credential(Fact, frozen=True, kw_only=True, omit_defaults=True, tag="credential"):
    """An API key that may call the tenant's MCP servers. The secret itself is never here."""

    id: str  # ULID of the key's row; the Principal is `key:<id>`
    digest: str  # sha256 of the whole presented key, hex
    scopes: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()  # empty: all of the tenant's
    expires_at: float | None = None  # seconds since the epoch

    @property
    def key(self) -> str:
        return f"credential/{self.tenant}/{self.id}"


class Suspension(Fact, frozen=True, kw_only=True, omit_defaults=True, tag="suspension"):
    """While it stands, every endpoint of the tenant (or of one Server) answers 403 with the reason."""

    server_slug: str = ""  # empty: the whole tenant
    reason: str = ""

    @property
    def key(self) -> str:
        return f"suspension/{self.tenant}/{self.server_slug}"


class Revocation(Fact, frozen=True, kw_only=True, omit_defaults=True, tag="revocation"):
    """A session that was ended before its time. Kept until `until`, when its id has expired anyway, or until its Principal has
    ended REVOCATIONS_KEPT more: whoever holds the id of an old one gains nothing that `initialize` would not give. One that the
    control plane has ended is never counted away: there they are bounded by Environment."""

    session: str  # first 8 bytes of sha256(jti), hex
    until: float
    principal: str = ""  # who ended it, as in SessionReport; empty: the control plane
    environment: str = (
        ""  # whose server is still to be told, by one node; empty: whoever ended it has told it
    )

    @property
    def key(self) -> str:
        return f"revocation/{self.tenant}/{self.session}"


AnyFact = Route | Credential | Suspension | Revocation

# ── Reports: data plane → control plane ──────────────────────────────────────────────────────────────────────────────


class HealthReport(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="report", tag="health", omit_defaults=True
):
    """What real traffic to one Release looked like in one window of one node."""

    tenant: str
    environment: str
    release: str
    node: str
    window_start: float  # seconds since the epoch
    window_s: float
    requests: int
    failures: int  # upstream unreachable, 5xx, timeout, broken answer; a JSON-RPC error is an answer
    latency_ms_sum: float
    latency_ms_max: float
    latency_buckets: tuple[int, ...] = ()  # counts by LATENCY_BUCKETS_MS
    request_bytes: int = 0
    response_bytes: int = 0
    open_streams: int = 0
    last_failure: str = ""  # one of a closed list, never a tenant's text


SESSION_TOLD_EVERY_S: Final = 60.0
LATENCY_BUCKETS_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)


class SessionReport(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="report", tag="session", omit_defaults=True
):
    """A session was opened, used or ended. Written behind, in batches; `active` at most once in SESSION_TOLD_EVERY_S per node.
    They may arrive in any order and more than once. What the client is called is known of `opened` only."""

    tenant: str
    environment: str
    session: str  # as in Revocation
    principal: str
    event: Literal["opened", "active", "ended"]
    at: float  # seconds since the epoch, as are the next two
    opened_at: float = 0.0
    expires_at: float = 0.0
    client_name: str = ""
    client_version: str = ""
    protocol_version: str = ""


class CredentialReport(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="report", tag="credential", omit_defaults=True
):
    """An API key was used; told once a window, with the last time."""

    tenant: str
    credential: str  # ULID of the key's row
    at: float  # seconds since the epoch


AnyReport = HealthReport | SessionReport | CredentialReport

# ── Redis keys ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Keys(msgspec.Struct, frozen=True):
    """Names of everything the planes share in Redis, for one installation."""

    installation: str

    @property
    def facts(self) -> str:
        """Hash: fact key → encoded fact. The current state."""
        return f"smcp:{self.installation}:facts"

    @property
    def changes(self) -> str:
        """Stream, trimmed to about CHANGES_KEPT: field `fact` = encoded fact."""
        return f"smcp:{self.installation}:changes"

    @property
    def epoch(self) -> str:
        """String: a random id of this life of the data; another value means: read everything again."""
        return f"smcp:{self.installation}:epoch"

    @property
    def sessions_since(self) -> str:
        """String: since when (seconds since the epoch) this life of the data has been told of the sessions in use."""
        return f"smcp:{self.installation}:sessions-since"

    @property
    def reports(self) -> str:
        """Stream, trimmed to about REPORTS_KEPT: field `report` = encoded report."""
        return f"smcp:{self.installation}:reports"

    def node(self, node: str) -> str:
        """String that expires soon: this gateway node lives."""
        return f"smcp:{self.installation}:node:{node}"

    def pulse(self, node: str) -> str:
        """String that expires soon: what this gateway node writes to learn how Redis takes it."""
        return f"smcp:{self.installation}:pulse:{node}"

    def bells(self, node: str) -> str:
        """List: which tenants' boxes on this gateway node have letters."""
        return f"smcp:{self.installation}:bells:{node}"

    def of_tenant(self, tenant: str, *parts: str) -> str:
        """A key that holds a tenant's own data: the tenant always comes first."""
        return ":".join((f"smcp:{self.installation}:t", tenant, *parts))


CHANGES_KEPT: Final = 100_000
REVOCATIONS_KEPT: Final = 1000  # of one Principal's sessions
REPORTS_KEPT: Final = 100_000

PUBLISH_LUA: Final = """
-- KEYS: facts, changes. ARGV: kept, then (key, version, is_gone, encoded) for each fact.
-- Publishes each fact unless the hash already holds its version or a later one. Returns how many were news.
local news = 0
for i = 2, #ARGV, 4 do
  local at = redis.call('HGET', KEYS[1], ARGV[i] .. '#v')
  if not at or tonumber(at) < tonumber(ARGV[i + 1]) then
    if ARGV[i + 2] == '1' then redis.call('HDEL', KEYS[1], ARGV[i])
    else redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 3]) end
    redis.call('HSET', KEYS[1], ARGV[i] .. '#v', ARGV[i + 1])
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'fact', ARGV[i + 3])
    news = news + 1
  end
end
return news
"""

# ── Codecs ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_encoder = msgspec.json.Encoder()
_fact_decoder = msgspec.json.Decoder(AnyFact)
_report_decoder = msgspec.json.Decoder(AnyReport)


def encode(value: AnyFact | AnyReport) -> bytes:
    """JSON, one object, with its kind in `fact` or `report`."""
    return _encoder.encode(value)


def decode_fact(raw: bytes | str) -> AnyFact:
    """Raises msgspec.ValidationError or msgspec.DecodeError: skip that fact, count it, never stop following."""
    fact: AnyFact = _fact_decoder.decode(raw)
    return fact


def decode_report(raw: bytes | str) -> AnyReport:
    """Raises msgspec.ValidationError or msgspec.DecodeError."""
    report: AnyReport = _report_decoder.decode(raw)
    return report


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64url(text: str) -> bytes:
    """Raises ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


# ── API keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def digest_of_key(presented: str) -> str:
    """How a presented API key is looked up: keys are 256 random bits, so one plain hash is enough."""
    return hashlib.sha256(presented.encode()).hexdigest()


# ── Assertions: who may pass the dispatcher Worker ───────────────────────────────────────────────────────────────────

ASSERTION_HEADER: Final = "smcp-assertion"
ASSERTION_LIFE_S: Final = 60


class Assertion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the dispatcher must believe before it lets a request through. `v1.<kid>.<payload>.<signature>`, Ed25519."""

    aud: str
    ten: str  # tenant ULID
    wrk: str  # script
    iat: int
    exp: int  # at most ASSERTION_LIFE_S after iat
    cpu_ms: int = 0  # custom limits of the dispatch call; 0: the script's own
    egress: tuple[str, ...] | None = None  # handed to the outbound Worker; None: no policy


def sign_assertion(assertion: Assertion, *, kid: str, key: Ed25519PrivateKey) -> str:
    """One header value. Costs about 40 µs: keep it for as long as it lives."""
    signed = f"v1.{kid}.{b64url(_encoder.encode(assertion))}"
    return f"{signed}.{b64url(key.sign(signed.encode()))}"


# ── Probe tokens: the monitors' way through the gateway ──────────────────────────────────────────────────────────────

PROBE_TOKEN_LIFE_S: Final = 60
PROBE_TOKEN_PREFIX: Final = "smcp_p1_"  # noqa: S105 - a prefix, not a secret


def mint_probe_token(*, key: bytes, environment: str, now: float) -> str:
    """A bearer token for one Environment that lives PROBE_TOKEN_LIFE_S and may only initialize, discover and list."""
    body = f"{environment}.{int(now) + PROBE_TOKEN_LIFE_S}"
    return f"{PROBE_TOKEN_PREFIX}{body}.{b64url(hmac.digest(key, body.encode(), 'sha256'))}"


def is_probe_token(token: str, *, key: bytes, environment: str, now: float) -> bool:
    """Constant time in the signature. False for anything malformed, expired or made for another Environment."""
    env, _, rest = token.removeprefix(PROBE_TOKEN_PREFIX).partition(".")
    expires, _, signature = rest.partition(".")
    expected = b64url(hmac.digest(key, f"{env}.{expires}".encode(), "sha256"))
    return (
        token.startswith(PROBE_TOKEN_PREFIX)
        and hmac.compare_digest(signature.encode(), expected.encode())
        and env == environment
        and expires.isdigit()
        and now < int(expires) <= now + PROBE_TOKEN_LIFE_S + 5
    )


# ── Key rings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse_keyring(text: str) -> dict[str, bytes]:
    """`kid:base64url[,kid:base64url…]` → {kid: 32 bytes}, in order; the first one signs and seals, all verify and open.

    Raises ValueError naming the kid, never the key.
    """
    ring: dict[str, bytes] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        kid, _, encoded = entry.partition(":")
        try:
            key = unb64url(encoded)
        except ValueError:
            key = b""
        if not kid.isalnum() or len(key) != 32:
            raise ValueError(f"key {kid!r} of the key ring is not `kid:base64url` of 32 bytes")
        ring[kid] = key
    if not ring:
        raise ValueError("the key ring is empty")
    return ring


def verify_assertion(text: str, *, keys: dict[str, Ed25519PublicKey]) -> Assertion:
    """The dispatcher's check, for tests and tools. Raises ValueError."""
    try:
        version, kid, payload, signature = text.split(".")
        if version != "v1":
            raise ValueError(version)
        keys[kid].verify(unb64url(signature), f"v1.{kid}.{payload}".encode())
        return msgspec.json.decode(unb64url(payload), type=Assertion)
    except (ValueError, KeyError, InvalidSignature, msgspec.DecodeError) as exc:
        raise ValueError("not a valid assertion") from exc
