/* Search: descentFind("theorem 6.1") gives the entries of find-data.js that hold all words, best first.
 * Both files are loaded when somebody asks for them.
 */
(() => {
  "use strict";

  const GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho final sigma tau upsilon phi chi psi omega".split(" ");
  const IDLE = new Set("a an and are for in is of on or the to versus vs what with".split(" "));
  const RANK = { Theorem: 6, Proposition: 5, Lemma: 5, Corollary: 5, Definition: 5, Assumption: 5, Symbol: 4, Chapter: 4, Claim: 3, Function: 3, Section: 2, Figure: 1, Exercise: 1, Equation: 1 };

  // What readers ask for by another name than the book's.
  const SAME = {
    "learning rate": "step size", stepsize: "step size", overparameterisation: "width", overparameterised: "width",
    overparametrisation: "width", "neural tangent kernel": "rank tangent kernel", ntk: "rank tangent kernel", svm: "margin",
    "implicit bias": "logistic regression", "max margin": "maximal margin", "pl condition": "pl inequality", icl: "in context", "mean field": "dynamics",
    gd: "gradient descent",
  };
  // How the numbered things of a book are called for short.
  const SHORT = { thm: "theorem", prop: "proposition", eq: "equation", eqn: "equation", ex: "exercise", fig: "figure" };
  // Pages that name what other pages are about.
  const ASIDE = /^(course|errata|intro|ledger|reference|runtimes)/;

  // Words as they are compared: σ_min, \sigma_{\min}, σₘᵢₙ and "sigma min" are the same; initialize, initialise.
  const normal = text => text.replace(/[\u1d62-\u1d6a\u2080-\u209c\u2c7c]+/g, " $&").normalize("NFKD").toLowerCase()
    .replace(/[α-ω]/g, letter => ` ${GREEK[letter.charCodeAt(0) - 0x3b1]} `)
    .replace(/[\u0300-\u036f]/g, "").replace(/ł/g, "l").replace(/(?<=[a-z]{3})iz(?=e|ing|at)/g, "is")
    .replace(/[^a-z0-9.]+/g, " ").replace(/\.(?!\d)/g, " ").trim();
  const words = text => normal(text).split(" ").filter(Boolean);
  // What stands in brackets in the text is an equation.
  const long = text => text.replace(/^\s*\((\d+\.\d+)\)\s*$/, "equation $1")
    .replace(/\b(thm|prop|eqn?|ex|fig)\b\.?(?=\s*\(?\d)/gi, (_, word) => SHORT[word.toLowerCase()]);

  const telling = list => list.filter(word => !IDLE.has(word));
  const entries = window.descentEntries.map(([kind, title, address, excerpt, also, text]) => ({
    kind, title, address, excerpt,
    // the id of a claim is another name of what it claims, the title of the ledger's pages one of a part
    head: kind === "Claim" || /^ledger\//.test(address) ? [] : words(kind === "Equation" ? `${kind} ${title}` : title),
    also: words(long(kind === "Claim" || /^ledger\//.test(address) ? `${title} ${also}` : also)).filter(word => !IDLE.has(word)),
    names: also.split(" | ").filter(name => /\d/.test(name)).map(name => telling(words(long(name))).join(" ")),
    text: words(text),
    begins: ` ${normal(excerpt)} `,
  }));

  // The terms of the field, in the singular, and the address that introduces each.
  const term = list => telling(list).map(word => word.replace(/ies$/, "y").replace(/(?<=..[^s])s$/, "")).join(" ");
  const terms = new Map(Object.entries(window.descentTerms).map(([name, address]) => [term(words(name)), address]));

  // How well a word of the query meets a list of words: 2 as it is, 1 as the beginning of one.
  const meets = (list, word) => list.includes(word) ? 2 : word.length > 1 && list.some(each => each.startsWith(word)) ? 1 : 0;

  const score = (entry, query) => {
    let sum = 0;
    for (const word of query) {
      const here = 6 * meets(entry.head, word) || 4 * meets(entry.also, word) || meets(entry.text, word);
      if (!here) return -Infinity;
      sum += here;
    }
    const phrase = ` ${query.join(" ")} `;
    if (` ${entry.head.join(" ")} `.includes(phrase)) sum += 12;
    if (` ${entry.also.join(" ")} `.includes(phrase)) sum += entry.kind === "Chapter" ? 16 : 8;
    if (entry.names.includes(query.join(" "))) sum += 20; // this, and not a part of it or what has it as a part
    if (entry.kind === "Symbol" && query.length > 1 && entry.begins.includes(phrase)) sum += 10; // what it means
    if (entry.kind === "Function") sum -= entry.address.length / 1000; // what is called as it is comes before its like
    if (ASIDE.test(entry.address) && !query.some(word => entry.head.includes(word))) sum -= entry.kind === "Chapter" ? 12 : 4;
    return sum + (RANK[entry.kind] ?? 0) + (8 * query.filter(word => entry.head.includes(word)).length) / (entry.head.length + 1);
  };

  const search = text => {
    const all = words(text);
    const query = telling(all).length ? telling(all) : all;
    if (!query.length) return [];
    const asked = query.join(" ").replace("over parameter", "overparameter");
    const also = Object.keys(SAME).filter(name => ` ${asked} `.includes(` ${name} `)).map(name => words(asked.replace(name, SAME[name])));
    const introduced = terms.get(term(query));
    // span.reduce, as code calls it
    const called = entry => entry.kind === "Function" && text.includes(".") && `.${entry.address.split("#")[1]}`.endsWith(`.${text.trim()}`);
    const best = entry => entry.address === introduced || called(entry) ? 1000 : Math.max(...[query, ...also].map(each => score(entry, each)));
    return entries.map(entry => ({ entry, score: best(entry) })).filter(found => found.score > -Infinity)
      .sort((a, b) => b.score - a.score).map(found => found.entry);
  };

  // Whether a slip of the pen lies between two words: a letter more, less, or another, or two that changed places.
  const slip = (a, b) => {
    let head = 0, tail = 0;
    while (head < a.length && a[head] === b[head]) head++;
    while (tail < Math.min(a.length, b.length) - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
    const [x, y] = [a, b].map(word => word.slice(head, word.length - tail));
    return Math.max(x.length, y.length) < 2 || (x.length === 2 && x === y[1] + y[0]);
  };
  let known; // every word of the book, and in how many entries it stands
  const meant = word => {
    if (!known) {
      known = new Map();
      for (const entry of entries) for (const each of new Set([...entry.head, ...entry.text])) known.set(each, (known.get(each) ?? 0) + 1);
    }
    if (word.length < 5 || known.has(word)) return word;
    const near = [...known.keys()].filter(each => Math.abs(each.length - word.length) < 2 && slip(word, each));
    return near.reduce((a, b) => (known.get(a) >= known.get(b) ? a : b), near[0] ?? word);
  };

  // What is found; where that is nothing, what is found for the words that may be meant, and these.
  window.descentFind = text => {
    for (const asked of [long(text), text]) {
      const found = search(asked);
      if (found.length) return found;
    }
    const other = words(text).map(meant).join(" ");
    return other === normal(text) ? [] : Object.assign(search(other), { meant: other });
  };
})();
