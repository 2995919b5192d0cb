// Offers the data as a file. Without this the page says how to get it.
const button = document.getElementById("save");
button.hidden = false;
button.addEventListener("click", () => {
    const json = document.getElementById("outcome").textContent.trim();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([json], { type: "application/json" }));
    link.download = "outcome.json";
    link.click();
    // Not at once: the browser has yet to read it.
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
