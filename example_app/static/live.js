"use strict";

// Fetches the page again each second, and swaps the parts that are marked.
(function () {
  async function look() {
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const old of document.querySelectorAll("[data-live]")) {
          const now = fresh.getElementById(old.id);
          if (now && now.innerHTML !== old.innerHTML) old.innerHTML = now.innerHTML;
        }
      }
    } catch {
      // The app is away; the next look may find it.
    }
    setTimeout(look, 1000);
  }
  setTimeout(look, 1000);
})();
