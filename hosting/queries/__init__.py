"""Everything one may ask about what tenants run. Call inside `as_tenant` (or `as_system`); rows come back, unevaluated lists where pages are cut."""
