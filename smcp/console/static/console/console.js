// What the console does in the browser: keeps times true, copies, asks before changes, and fetches moving parts again.
// No framework, no inline script; pages say what they want with data- attributes.
(() => {
  "use strict";

  // ── Times: the same words as templatetags/console.py ──────────────────────────────────────────────────────────────
  const SIZES = [[60, 1, "second"], [3600, 60, "minute"], [86400, 3600, "hour"], [45 * 86400, 86400, "day"]];

  function relative(at) {
    const seconds = (Date.now() - at) / 1000;
    const length = Math.abs(seconds);
    if (length < 10) return seconds >= 0 ? "just now" : "in a moment";
    for (const [limit, size, word] of SIZES) {
      if (length < limit) {
        const n = Math.floor(length / size);
        const text = `${n} ${word}${n === 1 ? "" : "s"}`;
        return seconds >= 0 ? `${text} ago` : `in ${text}`;
      }
    }
    return null;
  }

  function tellTimes(root) {
    for (const element of root.querySelectorAll("time[data-ago]")) {
      const text = relative(Date.parse(element.dateTime));
      if (text !== null && element.textContent !== text) element.textContent = text;
    }
  }

  // ── Moving parts: fetch a fragment, replace only the parts that differ ────────────────────────────────────────────
  function morph(region, html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const now = [...region.querySelectorAll("[data-part]")];
    const next = [...fresh.content.querySelectorAll("[data-part]")];
    const sameParts = now.length === next.length && now.every((part, i) => part.dataset.part === next[i].dataset.part);
    if (!sameParts) {
      region.replaceChildren(fresh.content);
    } else {
      next.forEach((part, i) => {
        if (now[i].smcpSource !== part.outerHTML) {
          const source = part.outerHTML;
          now[i].replaceWith(part);
          part.smcpSource = source;
        }
      });
    }
    tellTimes(region);
  }

  function follow(region) {
    const every = Number(region.dataset.liveEvery) || 2000;
    let failures = 0;
    async function look() {
      if (document.hidden) return void setTimeout(look, every);
      try {
        const answer = await fetch(region.dataset.live, { credentials: "same-origin", redirect: "manual" });
        if (answer.type === "opaqueredirect" || answer.status === 403) return void location.reload(); // signed out
        if (!answer.ok) throw new Error(String(answer.status));
        morph(region, await answer.text());
        failures = 0;
        region.classList.remove("c-lost");
        if (answer.headers.get("SMCP-Live") === "over") return;
      } catch {
        failures += 1;
        if (failures > 1) region.classList.add("c-lost");
      }
      setTimeout(look, Math.min(every * 2 ** failures, 30000));
    }
    setTimeout(look, every);
  }

  // ── Copy ──────────────────────────────────────────────────────────────────────────────────────────────────────────
  async function copy(button) {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      area.setAttribute("readonly", "");
      area.className = "c-offscreen";
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const word = button.querySelector("[data-copy-word]");
    if (word) {
      word.textContent = "Copied";
      setTimeout(() => { word.textContent = "Copy"; }, 1600);
    }
  }

  // ── Slugs: follow the name until the person writes one ────────────────────────────────────────────────────────────
  function slugOf(text, longest) {
    return text.toLowerCase().normalize("NFKD").replace(/[^a-z0-9]+/g, "-").slice(0, longest).replace(/^-+|-+$/g, "");
  }

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    const copier = target.closest("[data-copy]");
    if (copier) return void copy(copier);
    const opener = target.closest("[data-opens]");
    if (opener) {
      const dialog = document.getElementById(opener.dataset.opens);
      if (dialog) dialog.showModal();
      return;
    }
    const closer = target.closest("[data-closes]");
    if (closer) return void closer.closest("dialog").close();
    if (target instanceof HTMLDialogElement) target.close(); // a click beside the box
  });

  document.addEventListener("input", (event) => {
    const field = event.target;
    if (!(field instanceof HTMLInputElement)) return;
    if (field.dataset.mustEqual !== undefined) {
      field.form.querySelector("[type=submit]").disabled = field.value !== field.dataset.mustEqual;
    }
    if (field.dataset.slugFrom !== undefined) field.dataset.written = "1";
    const slug = document.querySelector(`[data-slug-from="${CSS.escape(field.name)}"]`);
    if (slug && !slug.dataset.written) slug.value = slugOf(field.value, slug.maxLength);
    if (field.name === "slug" || field.name === "name") field.dataset.written = "1";
    if (field.dataset.slugDefault !== undefined) {
      for (const [name, value] of [["slug", field.dataset.slugDefault], ["name", field.dataset.nameDefault]]) {
        const other = field.form.elements[name];
        if (other && !other.dataset.written) other.value = value;
      }
    }
  });

  document.addEventListener("submit", (event) => {
    for (const button of event.target.querySelectorAll("[type=submit]")) {
      // After the browser has gathered the form: a second click must not ask twice.
      setTimeout(() => { button.disabled = true; button.classList.add("c-waiting"); }, 0);
    }
  });
  window.addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll(".c-waiting")) {
      button.disabled = false;
      button.classList.remove("c-waiting");
    }
  });

  document.addEventListener("DOMContentLoaded", () => {
    for (const field of document.querySelectorAll("[data-must-equal]")) {
      field.form.querySelector("[type=submit]").disabled = true;
    }
    for (const region of document.querySelectorAll("[data-live]")) {
      for (const part of region.querySelectorAll("[data-part]")) part.smcpSource = part.outerHTML;
      follow(region);
    }
    tellTimes(document);
    setInterval(() => tellTimes(document), 5000);
  });
})();
