"""What the REST door says and hears about what tenants run, one file a noun. Times are RFC 3339 in UTC."""
