(() => {
  // A click on a heading sorts its table, and a reload keeps the order. Without this script the tables are static.
  const storageKey = index => 'sorted ' + location.pathname + ' ' + index;
  const save = (name, value) => { try { sessionStorage.setItem(name, value); } catch { /* storage is disabled */ } };
  const load = name => { try { return sessionStorage.getItem(name); } catch { return null; } };
  document.querySelectorAll('table.sortable').forEach((table, index) => {
    const body = table.tBodies[0], headings = [...table.tHead.rows[0].cells];
    const sort = (column, ascending) => {
      const value = row => row.cells[column].dataset.v ?? '';
      const number = text => text === '' ? NaN : Number(text);
      const isText = headings[column].dataset.text !== undefined;
      const order = [...body.rows].sort((a, b) => {
        if (isText) return (ascending ? 1 : -1) * value(a).localeCompare(value(b), 'en', { numeric: true });
        const x = number(value(a)), y = number(value(b));
        // Missing values are last in both directions.
        return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : ascending ? x - y : y - x;
      });
      body.append(...order);
      headings.forEach((heading, i) => i === column ? heading.setAttribute('aria-sort', ascending ? 'ascending' : 'descending')
        : heading.removeAttribute('aria-sort'));
    };
    headings.forEach((heading, column) => {
      const button = document.createElement('button');
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener('click', () => {
        const current = heading.getAttribute('aria-sort');
        const ascending = current ? current === 'descending' : heading.dataset.first !== 'down';
        sort(column, ascending);
        save(storageKey(index), column + ' ' + ascending);
      });
    });
    const [column, ascending] = (load(storageKey(index)) ?? '').split(' ');
    if (column && headings[column]) sort(Number(column), ascending === 'true');
  });
})();
