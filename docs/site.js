// What scrolls sideways can be scrolled by the keyboard too.
function reachable() {
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset table, pre > code")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}
// The theme gives the search dialog a role and no name.
for (const dialog of document.querySelectorAll("[role=dialog]:not([aria-label])")) dialog.ariaLabel = "Search";
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
