// Puts a fresh page in the place of the old one. Without it the page reloads as a whole.
const pause = 1000 * document.body.dataset.refresh;

const put = (fresh) => {
  const old = document.getElementById("main");
  const open = new Set([...old.querySelectorAll("details[open]")].map((each) => each.id));
  const focused = document.activeElement?.id;
  document.title = fresh.title;
  old.replaceWith(document.adoptNode(fresh.getElementById("main")));
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
};

const refresh = async () => {
  const stale = document.getElementById("stale");
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const text = (await answer.text()).replace(/<style[^]*?<\/style>/, ""); // its nonce is not the one of this page
    const fresh = new DOMParser().parseFromString(text, "text/html");
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
