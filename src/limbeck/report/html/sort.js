(() => {
  // Without this script the tables read as they stand; with it a heading sorts its table, and a reload keeps the order.
  const key = place => 'sorted ' + location.pathname + ' ' + place;
  const keep = (name, value) => { try { sessionStorage.setItem(name, value); } catch { /* a page that may keep nothing */ } };
  const kept = name => { try { return sessionStorage.getItem(name); } catch { return null; } };
  document.querySelectorAll('table.sortable').forEach((table, place) => {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const sort = (column, up) => {
      const value = row => row.cells[column].dataset.v ?? '';
      const number = text => text === '' ? NaN : Number(text);
      const text = heads[column].dataset.text !== undefined;
      const order = [...body.rows].sort((a, b) => {
        if (text) return (up ? 1 : -1) * value(a).localeCompare(value(b), 'en', { numeric: true });
        const x = number(value(a)), y = number(value(b));
        // What has no figure stays at the end, whichever way.
        return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : up ? x - y : y - x;
      });
      body.append(...order);
      heads.forEach((head, at) => at === column ? head.setAttribute('aria-sort', up ? 'ascending' : 'descending')
        : head.removeAttribute('aria-sort'));
    };
    heads.forEach((head, column) => {
      const button = document.createElement('button');
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener('click', () => {
        const now = head.getAttribute('aria-sort'), first = head.dataset.first === 'down' ? 'descending' : 'ascending';
        const up = now ? now === 'descending' : first === 'ascending';
        sort(column, up);
        keep(key(place), column + ' ' + up);
      });
    });
    const [column, up] = (kept(key(place)) ?? '').split(' ');
    if (column && heads[column]) sort(Number(column), up === 'true');
  });
})();
