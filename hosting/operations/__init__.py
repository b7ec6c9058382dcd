"""Everything that changes what tenants run. Keyword-only, tenant first; each writes its audit event in its own transaction."""
