// Elements, made without markup: whatever somebody wrote goes in as text.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const button = (words, onclick, more = {}) => element("button", { type: "button", onclick, ...more }, words);

// Make the children of a list what is wanted: those whose key and look are the same stay as they are,
// so that what is selected, folded or focused survives.
export function reconcile(list, wanted) {
  const present = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const { key, look, make } of wanted) {
    let child = present.get(key);
    present.delete(key);
    if (!child || child.dataset.look !== look) {
      const fresh = make(child ?? null);
      if (child && child !== fresh) {
        if (place === child) place = child.nextElementSibling;
        child.replaceWith(fresh);
      }
      child = fresh;
      child.dataset.key = key;
      child.dataset.look = look;
    }
    if (place === child) place = child.nextElementSibling;
    else list.insertBefore(child, place);
  }
  present.forEach((child) => child.remove());
}
