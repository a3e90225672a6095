// What scrolls sideways can be scrolled by the keyboard too.
function reachable() {
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset table, pre > code")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
