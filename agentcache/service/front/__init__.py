"""Who calls: HTTP, tokens, claims, and the ingress that joins them to routing."""
