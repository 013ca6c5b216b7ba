// Names for two controls of the theme, as a screen reader says them: the arrows of the contents have
// none, and that of the search field left out what can be read on it.
for (const arrow of document.querySelectorAll("nav summary")) {
  const above = arrow.closest("li")?.querySelector("a")?.textContent.trim();
  arrow.setAttribute("aria-label", `Pages of ${above}`);
}
for (const button of document.querySelectorAll(".search-button-field")) {
  button.removeAttribute("aria-label");
}
