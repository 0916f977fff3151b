// Says where the visitor is, on every path of the site.
document.getElementById("where").textContent = "You are at " + location.pathname + ".";
