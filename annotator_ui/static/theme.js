/** Sets the remembered theme before the first paint; a classic script, so that nothing flashes. */
(() => {
  const root = document.documentElement;
  const remembered = localStorage.getItem("layerloop.theme");
  if (remembered === "dark" || remembered === "light") root.dataset["theme"] = remembered;

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !event.target.closest("#theme")) return;
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const next = (root.dataset["theme"] ?? system) === "dark" ? "light" : "dark";
    root.dataset["theme"] = next;
    localStorage.setItem("layerloop.theme", next);
  });
})();
