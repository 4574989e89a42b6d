"use strict";

// Fetches the page again every second, and updates what has changed. Elements with data-live
// are replaced as a whole; in elements with data-live-items, each child is compared by its id.
// Unchanged children are not touched, so that a selection in them survives.
(function () {
  // Compare with the HTML that was served, not with the DOM, which scripts change.
  const served = new Map();
  for (const item of document.querySelectorAll("[data-live-items] > [id]")) {
    served.set(item.id, item.innerHTML);
  }

  function updateItems(list, fresh) {
    for (const now of fresh.children) {
      const old = document.getElementById(now.id);
      if (served.get(now.id) === now.innerHTML) continue;
      served.set(now.id, now.innerHTML);
      if (old) {
        old.innerHTML = now.innerHTML;
      } else {
        now.classList.add("new");
        list.append(now);
        announce(now);
      }
    }
  }

  function announce(entry) {
    const news = document.getElementById("news");
    if (!news) return;
    const link = document.createElement("a");
    link.href = `#${entry.id}`;
    link.textContent = `New entry by ${entry.querySelector("b").textContent}`;
    link.addEventListener("click", () => news.replaceChildren());
    news.replaceChildren(link);
  }

  async function look() {
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const old of document.querySelectorAll("[data-live]")) {
          const now = fresh.getElementById(old.id);
          if (now && now.innerHTML !== old.innerHTML) old.innerHTML = now.innerHTML;
        }
        for (const list of document.querySelectorAll("[data-live-items]")) {
          const now = fresh.getElementById(list.id);
          if (now) updateItems(list, now);
        }
      }
    } catch {
      // The app doesn't respond; try again in a second.
    }
    setTimeout(look, 1000);
  }
  setTimeout(look, 1000);
})();
