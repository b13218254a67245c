// Keeps a page fresh without touching what its reader holds: scroll, focus, selection, opened rows, text being typed.
// The page is complete without this file.
"use strict";

(() => {
  const main = document.getElementById("main");
  const source = main && main.dataset.events;
  const REFRESH_MS_MIN = 1000;
  const QUIET_MS_MAX = 25000; // the server says "alive" every 10 s
  const SHOWN_MS_MAX = 30000; // hosts fall silent without an event
  let shownAt = performance.now();
  let address = location.href;
  let busy = false;
  let again = false;
  let lastEvent = performance.now();

  // "4 s ago" moves by itself. The server says the age at the time of its answer: the clock of the browser is not asked.
  const span = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 120) return `${s} s`;
    if (s < 7200) return `${Math.floor(s / 60)} min`;
    if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
    return `${Math.floor(s / 86400)} days ${Math.floor(s / 3600) % 24} h`;
  };
  const tick = () => {
    const passed = performance.now() - shownAt;
    for (const age of document.querySelectorAll(".age")) {
      const ms = Number(age.dataset.ageMs) + passed;
      const text = span(ms);
      if (age.textContent !== text) age.textContent = text;
      const limit = Number(age.dataset.silentAfterMs);
      const chip = age.closest(".fresh.live");
      if (chip && limit && ms > limit) {
        chip.classList.replace("live", "silent");
        chip.querySelector(".pulse").textContent = "silent";
      }
    }
    if (source) {
      const lost = performance.now() - lastEvent > QUIET_MS_MAX;
      for (const mark of document.querySelectorAll(".lost")) mark.hidden = !lost;
    }
  };
  setInterval(tick, 1000);

  // Makes `old` equal to `fresh` by the fewest changes, so that what did not change keeps focus and selection.
  const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName;
  const key = (node) => (node.nodeType === 1 ? node.dataset.key || node.id : "");
  const morph = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    if (!same(old, fresh)) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== 1) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if ("keep" in old.dataset) return;
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    const keyed = new Map();
    for (const child of old.childNodes) {
      const name = key(child);
      if (name && !keyed.has(name)) keyed.set(name, child);
    }
    let place = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const name = key(wanted);
      let match = name ? keyed.get(name) : null;
      if (match) keyed.delete(name);
      if (!match && place && same(place, wanted) && !key(place) && !name) match = place;
      if (!match) {
        old.insertBefore(wanted, place);
        continue;
      }
      if (match === place) place = place.nextSibling;
      else old.insertBefore(match, place);
      morph(match, wanted);
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  };

  // While text is selected or a row would move under a pressed button, the refresh waits.
  const held = () => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && main.contains(selection.anchorNode);
  };

  const refresh = async () => {
    if (busy || held() || document.hidden) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    const asked = address;
    try {
      const answer = await fetch(asked, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (!answer.ok && answer.status >= 500) throw new Error(`status ${answer.status}`);
      const text = await answer.text();
      if (asked === address) {
        const page = new DOMParser().parseFromString(text, "text/html");
        shownAt = performance.now();
        for (const id of ["fresh", "main"]) {
          const old = document.getElementById(id);
          const fresh = page.getElementById(id);
          if (old && fresh) morph(old, document.importNode(fresh, true));
        }
        document.title = page.title;
        tick();
      } else {
        again = true;
      }
    } catch {
      again = true; // the next event, or the next second, tries again
    }
    setTimeout(() => {
      busy = false;
      if (again) refresh();
    }, REFRESH_MS_MIN);
  };
  document.addEventListener("selectionchange", () => { if (again && !held()) refresh(); });
  document.addEventListener("visibilitychange", () => { if (again && !document.hidden) refresh(); });

  // A browser opens six connections to a server at most: a page nobody sees gives its own back.
  if (source) {
    let events = null;
    let retry = 0;
    let opened = false;
    const alive = () => { lastEvent = performance.now(); };
    const disconnect = () => {
      clearTimeout(retry);
      if (events) events.close();
      events = null;
    };
    const connect = () => {
      if (events || document.hidden) return;
      events = new EventSource(main.dataset.events || source);
      events.onopen = () => {
        alive();
        tick();
        // What changed while nobody listened is not told again.
        if (opened) refresh();
        opened = true;
      };
      events.addEventListener("alive", () => {
        alive();
        if (performance.now() - shownAt > SHOWN_MS_MAX) refresh();
      });
      events.addEventListener("snapshot", () => {
        alive();
        refresh();
      });
      events.onerror = () => {
        lastEvent = -Infinity;
        tick();
        // A refused stream (the server is full, or starts again) is not tried again by the browser.
        if (events && events.readyState === EventSource.CLOSED) {
          disconnect();
          retry = setTimeout(connect, 5000);
        }
      };
    };
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) {
        disconnect();
      } else {
        alive();
        connect();
      }
    });
    addEventListener("pagehide", disconnect);
    addEventListener("pageshow", connect);
    connect();
  }

  // A filter works while it is typed.
  for (const form of document.querySelectorAll("form.tools")) {
    const filter = form.querySelector("input[type=search]");
    if (!filter) continue;
    let timer = 0;
    filter.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        const query = new URLSearchParams();
        for (const [name, value] of new FormData(form)) if (value !== "") query.set(name, value);
        const text = query.toString();
        address = form.action + (text ? `?${text}` : "");
        history.replaceState(null, "", address);
        refresh();
      }, 250);
    });
  }
})();
