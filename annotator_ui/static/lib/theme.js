/** Apply the saved theme before the first paint; a classic script, so that nothing flashes. */
(() => {
  const root = document.documentElement;
  const saved = localStorage.getItem("layerloop.theme");
  if (saved === "dark" || saved === "light") root.dataset["theme"] = saved;

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !event.target.closest("#theme")) return;
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const next = (root.dataset["theme"] ?? system) === "dark" ? "light" : "dark";
    root.dataset["theme"] = next;
    localStorage.setItem("layerloop.theme", next);
  });
})();
