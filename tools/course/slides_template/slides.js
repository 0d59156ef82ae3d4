// A chapter is a column of slides. What is too long for one, or too wide, is set smaller, down to one half.
const sizes = [1, 0.9, 0.8, 0.72, 0.65, 0.58, 0.5];

function fit() {
  const slide = Reveal.getCurrentSlide();
  for (const size of sizes) {
    slide.style.fontSize = `${size}em`;
    const narrow = slide.scrollWidth <= slide.clientWidth + 1;
    if (narrow && slide.scrollHeight <= Reveal.getConfig().height) return;
  }
}

// Figures that can be moved are drawn once they are seen.
const seen = () => requestAnimationFrame(() => requestAnimationFrame(fit));

Reveal.on("ready", seen);
Reveal.on("slidechanged", seen);
Reveal.initialize({
  width: 1120,
  height: 720,
  margin: 0.04,
  center: false,
  hash: true,
  slideNumber: "h.v",
  transition: "none",
  plugins: [RevealNotes],
});
