// Niceties only: the page says everything without this.
(function () {
  "use strict";
  var all = function (q) { return Array.prototype.slice.call(document.querySelectorAll(q)); };
  // A link to a folded chain opens it.
  var reveal = function () {
    var at = location.hash && document.getElementById(location.hash.slice(1));
    if (!at) return;
    for (var p = at; p; p = p.parentElement) if (p.tagName === "DETAILS") p.open = true;
    var inner = at.querySelector("details.more"); if (inner) inner.open = true;
  };
  addEventListener("hashchange", reveal); reveal();
  // Paper has no folds.
  var shut = [];
  addEventListener("beforeprint", function () { shut = all("details:not([open])"); shut.forEach(function (d) { d.open = true; }); });
  addEventListener("afterprint", function () { shut.forEach(function (d) { d.open = false; }); });
}());
