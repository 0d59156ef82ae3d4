/* Search: descentFind("theorem 6.1") gives the entries of find-data.js that hold all words, best first.
 * Both files are loaded when somebody asks for them.
 */
(() => {
  "use strict";

  const GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho final sigma tau upsilon phi chi psi omega".split(" ");
  const IDLE = new Set("a an and for in is of on the to with".split(" "));
  const RANK = { Theorem: 6, Proposition: 5, Lemma: 5, Corollary: 5, Definition: 5, Assumption: 5, Symbol: 4, Chapter: 4, Claim: 3, Function: 3, Section: 2, Figure: 1, Exercise: 1, Equation: 1 };

  // Words as they are compared: σ_min, \sigma_{\min} and "sigma min" are the same.
  const normal = text => text.normalize("NFKD").toLowerCase()
    .replace(/[α-ω]/g, letter => ` ${GREEK[letter.charCodeAt(0) - 0x3b1]} `)
    .replace(/[\u0300-\u036f]/g, "").replace(/ł/g, "l")
    .replace(/[^a-z0-9.]+/g, " ").replace(/\.(?!\d)/g, " ").trim();
  const words = text => normal(text).split(" ").filter(Boolean);

  const entries = window.descentEntries.map(([kind, title, address, excerpt, also, text]) => ({
    kind, title, address, excerpt,
    // the id of a claim is another name of what it claims
    head: kind === "Claim" ? [] : words(kind === "Equation" ? `${kind} ${title}` : title),
    also: words(kind === "Claim" ? `${title} ${also}` : also),
    text: words(text),
  }));

  // How well a word of the query meets a list of words: 2 as it is, 1 as the beginning of one.
  const meets = (list, word) => list.includes(word) ? 2 : word.length > 1 && list.some(each => each.startsWith(word)) ? 1 : 0;

  const score = (entry, query) => {
    let sum = 0;
    for (const word of query) {
      const here = 6 * meets(entry.head, word) || 4 * meets(entry.also, word) || meets(entry.text, word);
      if (!here) return 0;
      sum += here;
    }
    const phrase = ` ${query.join(" ")} `;
    if (` ${entry.head.join(" ")} `.includes(phrase)) sum += 12;
    if (` ${entry.also.join(" ")} `.includes(phrase)) sum += 8;
    return sum + (RANK[entry.kind] ?? 0) + (8 * query.filter(word => entry.head.includes(word)).length) / (entry.head.length + 1);
  };

  window.descentFind = text => {
    const all = words(text);
    const telling = all.filter(word => !IDLE.has(word));
    const query = telling.length ? telling : all;
    if (!query.length) return [];
    return entries.map(entry => ({ entry, score: score(entry, query) }))
      .filter(found => found.score > 0).sort((a, b) => b.score - a.score).map(found => found.entry);
  };
})();
