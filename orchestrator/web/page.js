// Puts a fresh page in the place of the old one. Without it the page reloads as a whole.
const pause = 5000;

const put = (fresh) => {
  const old = document.getElementById("main");
  const open = new Set([...old.querySelectorAll("details[open]")].map((each) => each.id));
  const focused = document.activeElement?.closest("details")?.id;
  document.title = fresh.title;
  old.replaceWith(document.adoptNode(fresh.getElementById("main")));
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused) document.querySelector(`#${focused} > summary`)?.focus({ preventScroll: true });
};

const refresh = async () => {
  const stale = document.getElementById("stale");
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (getSelection().isCollapsed) put(fresh);
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
};

const later = async () => {
  if (!document.hidden) await refresh();
  setTimeout(later, pause);
};
setTimeout(later, pause);
