// Keeps <main> up to date without a reload: fetches this page again and changes only what differs.
// Without this script the page reloads itself by <meta http-equiv="refresh">.
"use strict";
(() => {
  const period = 1000 * Number(document.body.dataset.refresh || 0);
  if (!period) return;
  const stale = document.querySelector(".stale");
  let misses = 0;

  async function refresh() {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(8000) });
      if (!answer.ok) throw new Error(String(answer.status));
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      patch(document.querySelector("main"), next.querySelector("main"));
      document.title = next.title;
      misses = 0;
    } catch {
      misses += 1;
    }
    // One miss may be a restart of the role; two are worth telling.
    stale.hidden = misses < 2;
  }

  function patch(old, now) {
    if (old.isEqualNode(now)) return;
    if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName) {
      old.replaceWith(document.importNode(now, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = now.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) if (!now.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const keyed = new Map();
    for (const child of old.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
    let at = old.firstChild;
    for (const child of [...now.childNodes]) {
      const key = child.dataset?.key;
      const match = key ? keyed.get(key) : at && !at.dataset?.key && at.nodeName === child.nodeName ? at : null;
      if (!match) {
        old.insertBefore(document.importNode(child, true), at);
        continue;
      }
      if (match === at) at = at.nextSibling;
      else old.insertBefore(match, at);
      patch(match, child);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  async function loop() {
    await refresh();
    setTimeout(loop, period);
  }
  setTimeout(loop, period);
  document.addEventListener("visibilitychange", refresh);
})();
