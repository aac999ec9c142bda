import { wireHeader } from "./chrome.js";

wireHeader();
const target = document.getElementById("swagger");
window.SwaggerUIBundle({
  url: target.dataset.openapi,
  domNode: target,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  validatorUrl: null,
});
