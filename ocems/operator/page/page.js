import { $, Calendar, clock, date, get, hours, legend, link, moment, names, plural, put, sameDay, sevenDays, shareOf, slotLength, stampName, tableOf } from '/webui/webui.js'

const every = 5000, // ms between two requests for the hosts
  daysEvery = 60000 // ms between two requests for the days of a device whose slots have not changed

const asked = new URLSearchParams(location.search)
if (asked.get('theme') === 'light') document.documentElement.dataset.theme = 'light' // for a screen on a wall
let status = null, now = Date.now(), page = Number(asked.get('page')) || 1
$('find').value = asked.get('find') ?? ''

// Unchanged parts stay in place, so that nothing flickers and the keyboard focus stays.
function text(element, ...parts) {
  const key = parts.map(p => p.nodeType ? p.outerHTML : p).join('')
  if (element.shown !== key) { element.shown = key; element.replaceChildren(...parts) }
}
function mark(element, name, value) { if (element.dataset[name] !== value) element.dataset[name] = value }

const at = time => { const ms = Date.parse(time); return sameDay(ms, now) ? clock(ms, true) : moment(ms) }
const stampAt = ms => sameDay(ms, now) ? clock(ms) : stampName(ms)
const number = v => String(Number(v.toPrecision(7)))
const nameOf = p => p.parameter + (p.diagnostic ? ' (diagnostic)' : '')

// ---- hosts

function facts(h) {
  if (h.fault) return [['state', h.fault]]
  const list = []
  if (h.next) list.push(['next slot', `${stampAt(Date.parse(h.next.stamp))}, made at ${clock(Date.parse(h.next.leaves), true)}`])
  if (!h.slots) list.push(['board’s last answer', h.board.answered ? `${at(h.board.answered)}, usually in ${h.board.latency_seconds >= 1 ? h.board.latency_seconds.toFixed(1) + ' s' : Math.round((h.board.latency_seconds ?? 0) * 1000) + ' ms'}` : 'none yet'])
  list.push(['clock', h.clock.trouble || (h.clock.trusted ? 'trusted' : 'not trusted yet') + skew(h.clock.server_ahead_seconds)], ['slots waiting', (h.slots_waiting ?? 0).toLocaleString('en')])
  if (h.trouble && h.trouble !== h.verdict.text) list.push(['trouble', h.trouble])
  list.push(['status written', at(h.written)], ['sends to', h.slots ? 'exporters behind it' : h.endpoint])
  return list
}

const skew = s => Math.abs(s) < 1 ? '' : `; the board is ${Math.abs(s).toFixed(0)} s ${s > 0 ? 'ahead' : 'behind'}`

function showHosts() {
  while ($('hosts').children.length > status.hosts.length) $('hosts').lastChild.remove()
  status.hosts.forEach((h, i) => {
    const box = $('hosts').children[i] ?? $('hosts').appendChild(put('div', null, put('h2'), put('dl', { class: 'facts' })))
    text(box.firstChild, status.hosts.length > 1 ? h.name : '')
    box.firstChild.hidden = status.hosts.length < 2
    const list = facts(h), dl = box.lastChild
    while (dl.children.length > list.length) dl.lastChild.remove()
    list.forEach(([name, value], k) => {
      const fact = dl.children[k] ?? dl.appendChild(put('div', { class: name === 'sends to' && 'wide' }, put('dt'), put('dd')))
      text(fact.firstChild, name)
      text(fact.lastChild, value)
    })
  })
}

// ---- devices

const devices = new Map() // the element of each device, by host and id

class Device {
  constructor(key) {
    this.key = key
    this.head = put('h2')
    this.why = put('p', { class: 'why' })
    this.rows = put('tbody')
    this.week = put('p', { class: 'week' })
    this.only = put('select')
    this.only.addEventListener('change', () => { this.state = ''; this.loadDays() })
    this.choice = put('label', { hidden: true }, 'Parameter ', this.only)
    this.grid = put('div', { role: 'grid', 'aria-label': 'Slots of today and the last 7 days, one row for each day, newest first', 'aria-readonly': 'true' })
    this.picture = put('div', { class: 'calendar', hidden: true }, put('div', { class: 'hours', 'aria-hidden': 'true' }, hours()), this.grid)
    this.slot = put('div', { class: 'slot', hidden: true, role: 'region', 'aria-live': 'polite', 'aria-label': 'The chosen slot' })
    this.values = put('details', { hidden: true }, put('summary', null, 'Values of the last 24 hours'), put('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Values of the last 24 hours' }))
    this.calendar = new Calendar(this.grid, cell => this.open(this.calendar.cells[cell].stamp))
    this.more = put('button', { type: 'button' }, 'Show the last 8 days')
    this.more.addEventListener('click', () => { this.wanted = true; this.more.hidden = true; this.loadDays() })
    this.values.addEventListener('toggle', () => this.showValues())
    this.element = put('section', { class: 'device' }, this.head, this.why,
      put('table', { class: 'parameters cards' }, put('thead', null, put('tr', null, ['state', 'parameter', 'last reading', 'at', 'last 24 hours', 'status, and what to do'].map(h => put('th', { scope: 'col' }, h)))), this.rows),
      put('div', { class: 'head' }, this.week, this.choice), this.more, this.picture, this.slot, this.values)
  }

  show(d) {
    this.device = d
    mark(this.element, 'level', d.level)
    text(this.head, put('bdi', null, d.device), put('span', null, ' at ', put('bdi', null, d.station), status.hosts.length > 1 ? ` · ${status.hosts[d.host].name}` : ''))
    const why = []
    if (d.slots_waiting) why.push(`${plural(d.slots_waiting, 'slot')} waiting${d.oldest_waiting ? ', from ' + stampAt(Date.parse(d.oldest_waiting)) : ''}`)
    if (d.held) why.push(`held by the board${d.held_since ? ' since ' + at(d.held_since) : ''}: ${d.detail || d.held}`)
    const refused = d.parameters.filter(p => p.refused)
    if (refused.length && !d.held) why.push(`${refused.map(nameOf).join(', ')} refused by the board`)
    text(this.why, why.join('; '))
    this.why.hidden = !why.length
    while (this.rows.rows.length > d.parameters.length) this.rows.lastChild.remove()
    d.parameters.forEach((p, i) => this.row(this.rows.rows[i] ?? this.rows.appendChild(put('tr', null, ['state', 'parameter', 'last reading', 'at', 'last 24 hours', ''].map(l => put('td', { 'data-label': l }, put('div'))))), p))
    const options = ['', ...d.parameters.map(nameOf)]
    if (options.join('\n') !== [...this.only.options].map(o => o.value).join('\n')) this.only.replaceChildren(...options.map(o => put('option', { value: o }, o || 'all')))
    const few = status.devices_total <= 5
    if (few || this.wanted) this.loadDays()
    this.more.hidden = few || this.wanted === true
  }

  row(row, p) {
    mark(row, 'level', p.verdict.level)
    const cell = i => row.cells[i].firstChild
    const r = p.reading ?? (p.slot ? { value: p.slot.value, at: p.slot.stamp } : null)
    text(cell(0), put('span', { class: 'level' }, p.verdict.level))
    text(cell(1), nameOf(p))
    text(cell(2), r ? `${number(r.value)} ${p.unit ?? ''}` : 'none')
    text(cell(3), r ? at(r.at) : '–')
    text(cell(5), p.verdict.text, put('span', { class: 'cure' }, p.verdict.cure ? 'Do: ' + p.verdict.cure : ''))
  }

  // The days depend on state: while it is the same they are requested less often.
  async loadDays() {
    const state = JSON.stringify([Math.floor((now - 2 * 60000) / slotLength), this.device.waiting_runs, this.device.held, this.device.parameters.map(p => [p.delivered, p.slot?.stamp, p.refused?.reason])])
    if (this.loading) return this.again = true
    if (state === this.state && Date.now() - this.loaded < daysEvery) return
    this.loading = true
    try {
      const only = this.device.parameters[this.only.selectedIndex - 1]
      this.history = await get('/history.json?' + new URLSearchParams({ host: this.device.host, device: this.device.device, ...only && { parameter: only.parameter, diagnostic: !!only.diagnostic } }))
      this.state = state
      this.loaded = Date.now()
      this.showDays()
    } catch (e) { console.warn(e.message) }
    this.loading = false
    if (this.again) { this.again = false; this.loadDays() }
  }

  showDays() {
    const { days, trends, late, fault } = this.history
    text(this.week, ...fault ? [fault] : shareOf(days, late))
    this.picture.hidden = this.values.hidden = this.choice.hidden = !!fault
    if (fault) return
    this.calendar.show(days, says)
    trends.forEach((t, i) => { if (this.rows.rows[i]) text(this.rows.rows[i].cells[4].firstChild, ...trend(t, this.device.parameters[i].unit)) })
    this.showValues()
    if (this.chosen) this.open(this.chosen, true)
  }

  showValues() {
    if (!this.values.open || !this.history) return
    const { trends } = this.history, by = new Map()
    trends.forEach((t, i) => t.stamps.forEach((s, k) => by.set(s, [...by.get(s) ?? [], [i, number(t.values[k])]])))
    const rows = [...by.keys()].sort((a, b) => b - a).map(s => [stampAt(s), ...trends.map((_, i) => by.get(s).find(v => v[0] === i)?.[1] ?? '–')])
    text(this.values.lastChild, Object.assign(tableOf(['slot', ...this.device.parameters.map(p => `${nameOf(p)} ${p.unit ?? ''}`)], rows), { className: 'values' }))
  }

  // open shows the outcomes of a slot below the calendar.
  async open(stamp, again) {
    this.chosen = stamp
    let parts
    try {
      parts = await get('/slot.json?' + new URLSearchParams({ host: this.device.host, device: this.device.device, stamp }))
    } catch (e) { return console.warn(e.message) }
    if (this.chosen !== stamp) return
    const cell = this.calendar.cells.find(c => c.stamp === stamp)
    const close = this.slot.querySelector('button') ?? put('button', { type: 'button' }, 'Close')
    close.onclick = () => { this.chosen = 0; this.slot.hidden = true; this.calendar.cells[this.calendar.current]?.element.focus() }
    const table = tableOf(['parameter', 'outcome', 'value', 'flag', 'when', 'why'], parts.map(p => [nameOf(p), p.outcome, p.value === undefined ? '–' : `${number(p.value)} ${p.unit ?? ''}`, p.flag || '–', p.time ? at(p.time) : '–', p.detail || '–']))
    if (this.slot.hidden || !again) this.slot.replaceChildren(put('div', { class: 'bar' }, put('h3'), close), put('div'))
    this.slot.hidden = false
    text(this.slot.querySelector('h3'), cell ? `${stampName(stamp)}: ${says(cell)}` : stampName(stamp))
    text(this.slot.lastChild, table)
  }
}

function says(cell) {
  if (cell.letter !== '-') return names[cell.letter]
  return cell.stamp < now - sevenDays ? 'older than 7 days' : cell.stamp > now ? 'not due yet' : cell.stamp > now - 2 * slotLength ? 'due now' : 'not due'
}

// trend draws the values of 24 hours. Gaps stay open.
function trend(t, unit = '') {
  if (!t.values.length) return ['–']
  const low = Math.min(...t.values), high = Math.max(...t.values), end = Math.floor(now / slotLength) * slotLength
  const x = s => (96 - (end - s) / slotLength).toFixed(1), y = v => (high > low ? 19 - 18 * (v - low) / (high - low) : 10).toFixed(1)
  const path = t.stamps.map((s, i) => `${i && s - t.stamps[i - 1] === slotLength ? 'L' : 'M'}${x(s)} ${y(t.values[i])}${i && s - t.stamps[i - 1] === slotLength ? '' : 'h.01'}`).join('')
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  for (const [k, v] of Object.entries({ class: 'trend', viewBox: '0 0 97 20', preserveAspectRatio: 'none', 'aria-hidden': 'true' })) svg.setAttribute(k, v)
  svg.appendChild(document.createElementNS('http://www.w3.org/2000/svg', 'path')).setAttribute('d', path)
  return [svg, put('span', { class: 'range' }, low === high ? `always ${number(low)} ${unit}` : `${number(low)} to ${number(high)} ${unit}`)]
}

function showDevices() {
  const drawn = status.devices.map(d => {
    const key = d.host + '/' + d.device
    if (!devices.has(key)) devices.set(key, new Device(key))
    const one = devices.get(key)
    one.show(d)
    return one
  })
  for (const [key, one] of devices) if (!drawn.includes(one)) { one.element.remove(); devices.delete(key) }
  if (drawn.some((one, i) => $('devices').children[i] !== one.element)) { // the order has changed
    const focused = document.activeElement
    $('devices').replaceChildren(...drawn.map(one => one.element))
    if ($('devices').contains(focused)) focused.focus({ preventScroll: true })
  }
  $('filter').hidden = status.devices_total <= 5
  text($('count'), `${status.devices_matched < status.devices_total ? `${status.devices_matched.toLocaleString('en')} of ` : ''}${plural(status.devices_total, 'device')}, ${status.devices_wrong.toLocaleString('en')} need a person${status.pages > 1 ? `; page ${status.page} of ${status.pages}` : ''}`)
  $('pages').hidden = status.pages < 2
  $('before').disabled = status.page < 2
  $('next').disabled = status.page >= status.pages
}

// ---- polling the hosts

let turn = 0, timer = 0
async function load() {
  clearTimeout(timer)
  const own = ++turn
  try {
    const answer = await get('/status.json?' + new URLSearchParams({ find: $('find').value, page }))
    if (own !== turn) return
    status = answer
    now = Date.parse(status.time)
    page = status.page
    mark($('light'), 'level', status.level)
    text($('sentence'), status.text)
    text($('cure'), status.cure ? 'Do: ' + status.cure : '')
    text($('time'), `${date(now)}, ${clock(now)}.`)
    document.title = `${{ ok: '✓', warning: '!', failed: '✕' }[status.level]} Reporting to the board`
    showHosts()
    showDevices()
    link('live', 'live')
  } catch (e) {
    if (own !== turn) return
    link('lost', 'ocems serve does not answer')
  }
  if (!document.hidden) timer = setTimeout(load, every)
}
document.addEventListener('visibilitychange', () => { if (document.hidden) { clearTimeout(timer); link('wait', 'paused') } else load() })
function turnTo(n) {
  page = n
  history.replaceState(null, '', '?' + new URLSearchParams({ ...Object.fromEntries(asked), find: $('find').value, page }))
  load()
}
$('filter').addEventListener('submit', e => e.preventDefault())
$('find').addEventListener('input', () => turnTo(1))
$('before').addEventListener('click', () => turnTo(page - 1))
$('next').addEventListener('click', () => turnTo(page + 1))
document.querySelector('#explained .legend').append(...legend('DPMXWBREC-'))
load()
