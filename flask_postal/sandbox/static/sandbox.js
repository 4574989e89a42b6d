"use strict";

// Polls the version. When it has changed, fetches the page again and replaces the
// content of the elements marked with data-live. The rest of the page is left alone, so
// that text that is being typed is not lost.
//
// The page's Content-Security-Policy forbids inline scripts and event handlers, so all
// behaviour is added here.
(function () {
  let seen = document.documentElement.dataset.version;

  function swap(fresh) {
    for (const old of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(old.id);
      if (!now || now.innerHTML === old.innerHTML) continue;
      const open = new Set(Array.from(old.querySelectorAll("details[open]"), (d) => d.id));
      const scroll = old.scrollTop;
      old.innerHTML = now.innerHTML;
      for (const box of old.querySelectorAll("details")) box.open = open.has(box.id);
      old.scrollTop = scroll;
    }
  }

  async function look() {
    try {
      const answer = await fetch("/version", { cache: "no-store" });
      const { version } = await answer.json();
      document.body.classList.remove("gone");
      if (String(version) !== seen) {
        seen = String(version);
        const page = await fetch(location.href, { cache: "no-store" });
        swap(new DOMParser().parseFromString(await page.text(), "text/html"));
      }
    } catch {
      document.body.classList.add("gone");
    }
    setTimeout(look, 700);
  }
  setTimeout(look, 700);

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
      button.classList.add("done");
    });
  }

  const widths = document.getElementById("widths");
  if (widths) {
    const chosen = sessionStorage.getItem("width");
    for (const box of widths.querySelectorAll("input")) {
      if (box.value === chosen) box.checked = true;
      box.addEventListener("change", () => sessionStorage.setItem("width", box.value));
    }
  }

  const drop = document.getElementById("drop");
  if (drop) {
    const form = document.getElementById("compose");
    const input = form.elements.eml;
    for (const name of ["dragenter", "dragover"]) {
      form.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    form.addEventListener("dragleave", () => drop.classList.remove("over"));
    form.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files.length) input.files = event.dataTransfer.files;
    });
  }
})();
