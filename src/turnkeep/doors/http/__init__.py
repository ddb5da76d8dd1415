"""HTTP: the routes, what each takes and gives, and the description of all in OpenAPI."""
