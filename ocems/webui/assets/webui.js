// Shared by the pages of this project. Names and values from senders reach a page as text only: see put().

const ist = 330 * 60000
export const slotLength = 15 * 60000, sevenDays = 7 * 24 * 3600000
export const $ = id => document.getElementById(id)

// Letters and names are those of ocems report.
export const names = { D: 'delivered', P: 'some parameters delivered', M: 'missing', X: 'excluded', W: 'waiting', B: 'refused by the board', R: 'rejected', E: 'expired', C: 'calibration', '-': 'not due' }

// put makes an element. Its children are elements or become text.
export function put(tag, attributes, ...children) {
  const e = document.createElement(tag)
  for (const [k, v] of Object.entries(attributes ?? {})) if (v !== null && v !== false) e.setAttribute(k, v === true ? '' : v)
  e.append(...children.flat().filter(c => c !== null && c !== undefined && c !== '').map(c => c instanceof Node ? c : String(c)))
  return e
}

export const two = n => String(n).padStart(2, '0')
const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
const weekdays = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat']
export function date(ms) { const d = new Date(ms + ist); return `${weekdays[d.getUTCDay()]} ${d.getUTCDate()} ${months[d.getUTCMonth()]}` }
export function clock(ms, seconds) { const d = new Date(ms + ist); return `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}${seconds ? ':' + two(d.getUTCSeconds()) : ''}` }
export const moment = ms => `${date(ms)} ${clock(ms, true)}`
export const stampName = ms => `${date(ms)}, ${clock(ms)}`
export const sameDay = (a, b) => date(a) === date(b)
export const plural = (n, what) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`

export async function get(path) {
  const answer = await fetch(path)
  if (!answer.ok) throw Object.assign(new Error((await answer.text()).trim()), { status: answer.status })
  return answer.json()
}

export const tableOf = (head, rows) => put('table', { class: 'cards' }, put('thead', null, put('tr', null, head.map(h => put('th', { scope: 'col' }, h)))),
  put('tbody', null, rows.map(row => put('tr', null, row.map((text, i) => put('td', { 'data-label': head[i] }, put('div', null, text)))))))

// link shows whether the page is connected.
export function link(state, text) { if ($('link').dataset.state !== state) { $('link').dataset.state = state; $('link').textContent = text } }

// shareOf is a sentence on the outcomes of the slots of some days.
export function shareOf(days, late) {
  const n = {}
  for (const letter of days.flatMap(day => [...day.slots])) n[letter] = (n[letter] ?? 0) + 1
  const due = 'DPMXWBRE'.split('').reduce((sum, l) => sum + (n[l] ?? 0), 0)
  const said = { P: 'with some parameters only', C: 'in calibration' }
  return due ? [put('b', null, `${(Math.floor((n.D ?? 0) * 10000 / due) / 100).toFixed(2)} %`), ` of ${due} slots delivered${late ? `, ${late} of them late` : ''}`,
    ...'PMXWBREC'.split('').flatMap(l => n[l] ? [`, ${n[l]} ${said[l] ?? names[l]}`] : []), '.'] : ['No slot is due yet.']
}

// legend explains the given letters.
export const legend = letters => letters.split('').map(l => put('li', { 'data-letter': l }, put('span', { class: l === '-' ? 'o' : l.toLowerCase() }, l === '-' ? '' : l),
  { M: 'missing, can still be sent', '-': 'not due, or older than 7 days' }[l] ?? names[l]))

export const hours = () => [put('span'), ...[0, 6, 12, 18].map(from => put('div', null, Array.from({ length: 6 }, (_, i) => put('span', null, two(from + i)))))]

// Calendar draws slots into a grid: one row for each day, newest first, with 96 cells from 00:00. The arrows, Home, End and the
// page keys move between cells; a click or Enter opens one.
export class Calendar {
  cells = [] // {element, stamp, letter}
  current = -1 // the cell that Tab reaches

  constructor(grid, open) {
    this.grid = grid
    grid.addEventListener('keydown', e => this.key(e, open))
    grid.addEventListener('click', e => { const at = e.target.dataset.at; if (at) { this.rove(Number(at)); open(Number(at)) } })
  }

  // show draws days of {first, slots}. says is the text of a cell.
  show(days, says) {
    if (this.grid.children.length !== days.length) {
      this.cells = []
      this.grid.replaceChildren(...days.map(() => put('div', { role: 'row', class: 'day' }, put('span', { role: 'rowheader' }), [0, 1, 2, 3].map(q =>
        put('div', { class: 'quarter', role: 'presentation' }, put('i', { 'aria-hidden': 'true' }, two(q * 6)), Array.from({ length: 24 }, () => {
          const element = put('div', { role: 'gridcell', class: 'cell', tabindex: '-1' })
          element.dataset.at = this.cells.length
          this.cells.push({ element })
          return element
        }))))))
    }
    days.forEach((day, row) => {
      this.grid.children[row].firstChild.textContent = date(day.first)
      for (let i = 0; i < 96; i++) {
        const cell = this.cells[row * 96 + i]
        cell.stamp = day.first + i * slotLength
        cell.letter = day.slots[i]
        const kind = cell.letter === '-' ? 'o' : cell.letter.toLowerCase()
        if (cell.element.dataset.kind !== kind) {
          cell.element.dataset.kind = kind
          cell.element.className = 'cell ' + kind
          cell.element.textContent = kind === 'o' ? '' : cell.letter
        }
        cell.element.setAttribute('aria-label', `${stampName(cell.stamp)}, ${says(cell)}`)
      }
    })
    if (this.current < 0) this.rove(Math.max(0, this.cells.slice(0, 96).findLastIndex(c => c.letter !== '-'))) // the newest
  }

  clear() {
    this.grid.replaceChildren()
    this.cells = []
    this.current = -1
  }

  rove(at) {
    this.cells[this.current]?.element.setAttribute('tabindex', '-1')
    this.current = at
    this.cells[at]?.element.setAttribute('tabindex', '0')
  }

  key(e, open) {
    const at = Number(e.target.dataset.at)
    if (Number.isNaN(at) || e.altKey || e.metaKey) return
    const line = this.grid.querySelector('i')?.offsetParent ? 24 : 96 // cells side by side
    const row = Math.floor(at / line) * line
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - line, ArrowDown: at + line, Home: e.ctrlKey ? 0 : row, End: e.ctrlKey ? this.cells.length - 1 : row + line - 1, PageUp: at - 96, PageDown: at + 96 }[e.key]
    if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); return open(at) }
    if (to === undefined) return
    e.preventDefault()
    if (!this.cells[to]) return
    this.rove(to)
    this.cells[to].element.focus()
  }
}
