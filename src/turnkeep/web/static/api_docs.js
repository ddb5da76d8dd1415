// The viewer of the API's own description: relative to the page, so that it works where the doors are mounted, too.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  persistAuthorization: false, // a key in the storage of a browser outlives its use
  tryItOutEnabled: true,
  docExpansion: "list",
  validatorUrl: null, // nothing is sent elsewhere
});
