// Building blocks of the page: elements by id, new elements, buttons, and the line for notices.

export const $ = (id) => document.getElementById(id);

export const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

export const button = (text, onClick, className = "plain") => {
  const node = make("button", className, text);
  node.type = "button";
  node.addEventListener("click", onClick);
  return node;
};

export const notice = (text) => {
  $("notice").textContent = text;
  $("notice").hidden = !text;
};
