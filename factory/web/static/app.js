// Small helpers; every page works without them.
(() => {
  "use strict";

  const byId = (id) => document.getElementById(id);
  const typing = (node) => node.closest("input, textarea, select, [contenteditable]");
  const keysOff = () => localStorage.getItem("keys") === "off";

  // ---- keys -----------------------------------------------------------------------------
  const help = byId("help");

  function step(by) {
    const rows = [...document.querySelectorAll("[data-open]")];
    if (!rows.length) return;
    const at = rows.indexOf(document.activeElement);
    const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by;
    const row = rows[Math.max(0, Math.min(rows.length - 1, next))];
    row.focus();
    row.scrollIntoView({ block: "nearest" });
  }

  function tick() {
    const row = document.activeElement.closest("li");
    const box = row && row.querySelector('input[type="checkbox"]');
    if (box) box.checked = !box.checked;
  }

  const keys = {
    x: tick,
    "?": () => help && !help.open && help.showModal(),
    "/": () => byId("search") && byId("search").focus(),
    j: () => step(1),
    k: () => step(-1),
    n: () => document.querySelector("[data-key-new]") && document.querySelector("[data-key-new]").click(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeMenus(null);
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (help && help.open) return;
    const act = keys[event.key];
    if (!act || (keysOff() && event.key !== "?")) return;
    event.preventDefault();
    act();
  });

  const keySwitch = byId("keys-on");
  if (keySwitch) {
    keySwitch.checked = !keysOff();
    keySwitch.addEventListener("change", () =>
      localStorage.setItem("keys", keySwitch.checked ? "on" : "off"));
  }

  // ---- menus, copy buttons, help --------------------------------------------------------
  function closeMenus(except) {
    document.querySelectorAll("details.menu[open]").forEach((menu) => {
      if (menu !== except) menu.open = false;
    });
  }

  async function copy(button) {
    const source = byId(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  document.addEventListener("click", (event) => {
    closeMenus(event.target.closest("details.menu"));
    const button = event.target.closest("[data-copy], [data-help]");
    if (!button) return;
    if (button.dataset.copy) copy(button);
    else if (help) help.showModal();
  });

  // ---- a slider and its number say the same ---------------------------------------------
  // Heard on the document: what a swap has just put on the page takes part at once.
  document.addEventListener("input", (event) => {
    const moved = event.target;
    if (!moved.id && !moved.dataset.pairs) return;
    const number = moved.dataset.pairs && byId(moved.dataset.pairs);
    if (number) {
      number.value = moved.value;
      number.dispatchEvent(new Event("input", { bubbles: true }));
      return;
    }
    const range = document.querySelector(`input[data-pairs="${CSS.escape(moved.id)}"]`);
    if (range && moved.value !== "") range.value = moved.value;
  });

  // ---- a token that is pointed at or reached shows what it was chosen among ----------------
  const tokenOf = (event) => event.target.closest(".tokens summary");

  function showToken(event) {
    const token = tokenOf(event);
    if (token) token.parentElement.open = true;
  }

  document.addEventListener("pointerover", showToken);
  document.addEventListener("focusin", showToken);
  document.addEventListener("click", (event) => {
    if (!tokenOf(event)) return;
    event.preventDefault(); // it is open already, and stays so
    showToken(event);
  });
  document.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const token = by && tokenOf(event);
    if (!token) return;
    event.preventDefault();
    const all = [...document.querySelectorAll(".tokens summary")];
    const next = all[all.indexOf(token) + by];
    if (next) next.focus();
  });

  // ---- say aloud what changed, rarely ---------------------------------------------------
  const voice = byId("announce");
  document.addEventListener("htmx:afterSettle", () => {
    const said = document.querySelector("[data-say]");
    if (voice && said && voice.textContent !== said.dataset.say) voice.textContent = said.dataset.say;
  });
})();
