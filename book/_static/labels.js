// The arrows in the solutions' toggle buttons are decoration: the button beside them has the name.
window.addEventListener("load", () => document.querySelectorAll(".toggle-button svg").forEach(i => i.setAttribute("aria-hidden", "true")));
