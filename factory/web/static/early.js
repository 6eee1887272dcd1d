// Before the first paint, so that nothing jumps: what needs scripts is shown.
document.documentElement.classList.add("scripts");
