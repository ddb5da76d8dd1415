// Light or dark: as the system has it, or as it was chosen here.

import { $ } from "./element.js";

const KEY = "turnkeep.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

export function followTheme(onChange = () => {}) {
  const choice = () => localStorage.getItem(KEY) ?? "";
  const show = () => {
    document.documentElement.dataset.theme = choice() || (dark.matches ? "dark" : "light");
    $("theme").value = choice();
    onChange();
  };
  $("theme").onchange = () => {
    if ($("theme").value) localStorage.setItem(KEY, $("theme").value);
    else localStorage.removeItem(KEY);
    show();
  };
  dark.addEventListener("change", show);
  addEventListener("storage", (event) => { if (event.key === KEY) show(); });
  show();
}
