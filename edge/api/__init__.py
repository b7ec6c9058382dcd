"""The operations of API v4, a module per product. Source: https://developers.cloudflare.com/api/."""
