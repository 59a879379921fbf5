"""The one script: it filters the portal while somebody types, and copies a command. Every page works without it."""

import base64
import hashlib

SCRIPT = """
(() => {
  const box = document.querySelector("[data-filter]");
  if (box) {
    const cards = [...document.querySelectorAll("[data-find]")];
    const count = document.querySelector("[data-count]");
    const none = document.querySelector("[data-none]");
    const show = () => {
      const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
      let shown = 0;
      for (const card of cards) {
        card.hidden = !words.every((word) => card.dataset.find.includes(word));
        shown += card.hidden ? 0 : 1;
      }
      const all = cards.length + (cards.length === 1 ? " application" : " applications");
      count.textContent = words.length ? shown + " of " + all : all;
      none.hidden = shown > 0;
    };
    box.addEventListener("input", show);
    box.form.addEventListener("submit", (event) => event.preventDefault());
    box.form.querySelector("button").hidden = true;
    show();
  }
  for (const button of navigator.clipboard ? document.querySelectorAll("[data-copy]") : []) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      const words = button.querySelector("span");
      const say = (text, done) => { words.textContent = text; button.classList.toggle("done", done); };
      say("Copied", true);
      setTimeout(() => say("Copy", false), 2000);
    });
  }
})();
"""
SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()  # as a CSP names it
