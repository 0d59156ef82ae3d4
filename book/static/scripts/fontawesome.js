// Stands in for the theme's own file of this name: 1.5 MB that draw, a second time, the icons
// which its style sheet already draws from two small fonts. Phones need not load it.
