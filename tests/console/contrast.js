// Every piece of text on the page whose contrast to what is painted behind it is below 4.5:1 (WCAG 2.2, 1.4.3), one per kind of element.
() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });

  function rgba(colour) { // whatever colour space the style sheet speaks
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = "#000";
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }

  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);

  function luminance(colour) {
    const [r, g, b] = colour.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(a, b) {
    const [light, dark] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (light + 0.05) / (dark + 0.05);
  }

  const found = new Map();
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const text = words.currentNode.textContent.trim();
    const element = words.currentNode.parentElement;
    if (!text || element.closest("script, style, svg, option, [aria-hidden=true], .material-symbols-outlined, :disabled")) continue;
    if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    const layers = [];
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      layers.unshift(rgba(style.backgroundColor));
      opacity *= Number(style.opacity);
    }
    const ground = layers.reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
    const ink = rgba(getComputedStyle(element).color);
    ink[3] *= opacity;
    const ratio = contrast(over(ink, ground), ground);
    const kind = `${element.tagName.toLowerCase()}.${element.className}`;
    if (ratio < 4.5 && !found.has(kind)) found.set(kind, `${ratio.toFixed(2)} ${kind} “${text.slice(0, 30)}”`);
  }
  return [...found.values()];
}
