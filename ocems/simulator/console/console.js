import { $, Calendar, clock, date, get, hours, legend, link, moment, names, plural, put, sameDay, sevenDays, shareOf, slotLength, stampName, tableOf } from '/webui/webui.js'

let chosen = { device: '', station: '', parameter: '' } // parameter: '' for all, or its name, with a mark for diagnostics
let calendar = null
let requests = [] // newest first
let shown = 50
let kept = 1000

// Text direction marks in a name must not affect the text after it.
const nameOf = c => [put('bdi', null, c.device), ', ', put('bdi', null, c.station)]
const marks = text => text.replace(/[\p{Cf}\p{Zl}\p{Zp}]/gu, c => [...Array(c.length).keys()].map(i => '\\u' + c.charCodeAt(i).toString(16).padStart(4, '0')).join(''))

function groups(list, key) {
  const by = new Map()
  for (const one of list) by.set(key(one), [...by.get(key(one)) ?? [], one])
  return by
}

// released waits while an element is pressed: an element replaced under the pointer gets no click.
async function released(element, held = () => element.matches(':active')) {
  while (held()) await new Promise(done => setTimeout(done, 50))
}

// later runs a job one at a time, and at least `pause` ms after its last run.
function later(pause, job) {
  let wanted = false, running = false
  return async function ask() {
    wanted = true
    if (running) return
    running = true
    while (wanted) {
      wanted = false
      try { await job() } catch (e) { console.warn(e.message) }
      await new Promise(done => setTimeout(done, pause))
    }
    running = false
  }
}

// ---- devices

let seen = false // the chosen device was brought into view

const loadDevices = later(1000, async () => {
  const list = await get('/console/devices?search=' + encodeURIComponent($('search').value))
  await released($('devices'))
  if (!chosen.device && list.devices.length) choose(list.devices[0].device)
  const focused = document.activeElement?.closest('#devices button')?.dataset.device
  const scroll = $('devices').scrollTop
  $('devices').replaceChildren(...[...groups(list.devices, d => d.station)].flatMap(([station, devices]) => [
    put('h3', null, station),
    put('ul', null, devices.map(d => put('li', null, put('button', { type: 'button', 'data-device': d.device, 'aria-current': d.device === chosen.device && 'true' },
      put('b', null, d.device),
      d.last ? put('span', { class: 'mark ' + (d.last_stored ? 'ok' : 'no') }, d.last_stored ? '✓' : '✕', put('span', { class: 'hidden' }, d.last_stored ? ' last request stored' : ' last request refused')) : '',
      put('small', null, d.last ? `${sameDay(d.last, now) ? clock(d.last, true) : moment(d.last)} · ${plural(d.requests, 'request')}${d.rejected ? `, ${d.rejected} refused` : ''}` : 'no request yet'))))),
  ]))
  $('devices').scrollTop = scroll
  if (!scroll && !seen) $('devices').querySelector('[aria-current]')?.closest('ul').scrollIntoView({ block: 'nearest' }), seen = true
  if (focused) [...$('devices').querySelectorAll('button')].find(b => b.dataset.device === focused)?.focus()
  $('devices-count').textContent = list.matched > list.devices.length ? `The first ${list.devices.length} of ${plural(list.matched, 'device')}: search for the others.`
    : list.matched < list.total ? `${list.matched} of ${plural(list.total, 'device')}` : list.total > 1 ? plural(list.total, 'device') : ''
})

function choose(device, parameter = '') {
  chosen = { device, parameter }
  history.replaceState(null, '', '#' + new URLSearchParams({ device, parameter }))
  for (const b of $('devices').querySelectorAll('button')) b.toggleAttribute('aria-current', false), b.dataset.device === device && b.setAttribute('aria-current', 'true')
  $('scope').replaceChildren(put('option', { value: '' }, 'all devices'), put('option', { value: device, selected: $('scope').value !== '' }, device))
  loadCalendar()
  showRequests()
}

$('search').addEventListener('input', loadDevices)
$('devices').addEventListener('click', e => { const b = e.target.closest('button'); if (b) choose(b.dataset.device) })
$('parameter').addEventListener('change', e => choose(chosen.device, e.target.value))

// ---- calendar

const diagnosticMark = ' (diagnostic)'
const parameterName = p => p.parameter + (p.diagnostic ? diagnosticMark : '')
let now = Date.now()
const board = new Calendar($('grid'), openCell)

const loadCalendar = later(500, async () => {
  const { device, parameter } = chosen
  if (!device) return
  const query = new URLSearchParams({ device })
  if (parameter) {
    query.set('parameter', parameter.replace(diagnosticMark, ''))
    query.set('diagnostic', parameter.endsWith(diagnosticMark))
  }
  let c
  try {
    c = await get('/console/calendar?' + query)
  } catch (e) {
    if (e.status !== 404 || device !== chosen.device) throw e
    $('calendar-title').textContent = device
    $('summary').textContent = e.message
    board.clear() // it is of another device, or of another registry
    hideTip()
    return
  }
  if (device !== chosen.device || parameter !== chosen.parameter) return loadCalendar()
  c.bySlot = new Map()
  const at = slot => {
    if (!c.bySlot.has(slot)) c.bySlot.set(slot, { readings: [], refused: [] })
    return c.bySlot.get(slot)
  }
  for (const [slot, n, value, flag, stamp, received] of c.readings) at(slot).readings.push({ parameter: c.parameters[n], value, flag, stamp, received })
  for (const [slot, n, when, http, status, request] of c.refused) at(slot).refused.push({ parameter: c.parameters[n], when, http, status, request })
  calendar = c
  now = c.now
  showCalendar()
})

function showCalendar() {
  const c = calendar
  $('calendar-title').replaceChildren(...nameOf(c))
  const options = ['', ...c.parameters.map(parameterName)]
  if (options.join('\n') !== [...$('parameter').options].map(o => o.value).join('\n')) {
    $('parameter').replaceChildren(...options.map(o => put('option', { value: o }, o || 'all')))
  }
  $('parameter').value = chosen.parameter
  document.querySelector('.legend [data-letter=P]').hidden = chosen.parameter !== ''
  $('summary').replaceChildren(...shareOf(c.days))
  board.show(c.days, says)
  if (!$('tip').hidden) showTip(Number($('tip').dataset.at))
  if ($('detail').open && openSlot) showSlot(openSlot)
}

function says(cell) {
  if (cell.letter !== '-') return names[cell.letter]
  return cell.stamp < now - sevenDays ? 'older than 7 days' : cell.stamp > now ? 'not due yet' : cell.stamp > now - 2 * 60000 ? 'due now' : 'before the first slot that arrived'
}

// ---- tip: the readings of a slot

const unitOf = r => r.parameter.unit
const flagText = f => f === 'U' ? 'U' : f === 'C' ? 'C, calibration' : f === 'Z' ? 'Z, zero calibration' : f
const came = (ms, slot) => `arrived ${sameDay(ms, slot) ? clock(ms, true) : moment(ms)}`
const answered = f => f.http === 0 ? 'no answer' : f.status === null ? `HTTP ${f.http}` : `status ${f.status} ${meanings.get(f.status) ?? ''}`.trim()

// pieces are the rows of a slot: averages, one row for each calibration, refusals.
function pieces(slot) {
  const { readings, refused } = calendar.bySlot.get(slot) ?? { readings: [], refused: [] }
  const rows = []
  for (const [name, list] of groups(readings, r => parameterName(r.parameter))) {
    const points = list.filter(r => r.flag === 'C' || r.flag === 'Z')
    for (const r of list) if (!points.includes(r)) rows.push([name, `${r.value} ${unitOf(r)}`, `flag ${flagText(r.flag)}`, came(r.received, slot)])
    for (const [flag, some] of groups(points, r => r.flag)) {
      const values = some.map(r => Number(r.value))
      rows.push([name, `${plural(some.length, 'point')}, ${Math.min(...values)} to ${Math.max(...values)} ${unitOf(some[0])}`, `flag ${flagText(flag)}`, came(Math.max(...some.map(r => r.received)), slot)])
    }
  }
  for (const f of refused) {
    if (!readings.some(r => parameterName(r.parameter) === parameterName(f.parameter))) rows.push([parameterName(f.parameter), 'rejected', answered(f), came(f.when, slot)])
  }
  return rows
}

function showTip(at) {
  const cell = board.cells[at], tip = $('tip')
  if (!cell || !calendar) return
  const rows = pieces(cell.stamp)
  tip.dataset.at = at
  tip.replaceChildren(put('p', null, put('b', null, stampName(cell.stamp)), ', ' + says(cell)),
    ...rows.length ? [put('table', null, rows.slice(0, 12).map(row => put('tr', null, row.map(text => put('td', null, text)))))] : [],
    ...rows.length > 12 ? [put('p', null, `and ${rows.length - 12} more`)] : [],
    ...cell.letter === 'M' ? [put('p', null, `can be sent until ${moment(cell.stamp + sevenDays)}`)] : [])
  tip.hidden = false
  const box = cell.element.getBoundingClientRect(), own = tip.getBoundingClientRect(), wide = document.documentElement.clientWidth
  tip.style.left = `${Math.max(8, Math.min(box.left + box.width / 2 - own.width / 2, wide - own.width - 8)) + scrollX}px`
  tip.style.top = `${(box.bottom + own.height + 4 > innerHeight && box.top > own.height + 4 ? box.top - own.height - 3 : box.bottom + 3) + scrollY}px`
  for (const c of board.cells) if (c.element.hasAttribute('aria-describedby')) c.element.removeAttribute('aria-describedby')
  cell.element.setAttribute('aria-describedby', 'tip')
}
function hideTip() { $('tip').hidden = true }

let leaving
$('grid').addEventListener('pointerover', e => { if (e.pointerType !== 'touch' && e.target.dataset.at) { clearTimeout(leaving); showTip(Number(e.target.dataset.at)) } })
$('tip').addEventListener('pointerenter', () => clearTimeout(leaving))
for (const e of [$('grid'), $('tip')]) e.addEventListener('pointerleave', () => { leaving = setTimeout(() => { const f = document.activeElement; f?.matches?.('.cell:focus-visible') ? showTip(Number(f.dataset.at)) : hideTip() }, 150) })
$('grid').addEventListener('focusin', e => { if (e.target.dataset.at && e.target.matches(':focus-visible')) showTip(Number(e.target.dataset.at)) })
$('grid').addEventListener('focusout', hideTip)
document.addEventListener('keydown', e => { if (e.key === 'Escape') hideTip() })

// ---- detail: the requests of a slot, with their JSON

let openSlot = 0
let detail = 0 // counts openings, so that a slow answer does not go into another slot's dialog

function openCell(at) {
  hideTip()
  openSlot = 0
  showSlot(board.cells[at].stamp)
}

async function showSlot(slot) {
  const cell = board.cells.find(c => c.stamp === slot)
  if (!cell) return
  const { readings } = calendar.bySlot.get(slot) ?? { readings: [] }
  const list = requests.filter(r => r.device === calendar.device && r.first <= slot && slot <= r.last && r.first)
  const state = JSON.stringify([slot, readings.length, list.map(r => r.id)])
  if (openSlot === slot && $('detail-body').dataset.state === state) return
  const turn = ++detail
  openSlot = slot
  $('detail-body').dataset.state = state
  $('detail-title').textContent = `${stampName(slot)}: ${says(cell)}`
  for (const b of [$('earlier'), $('later')]) b.hidden = false
  $('earlier').disabled = board.cells.every(c => c.stamp >= slot)
  $('later').disabled = board.cells.every(c => c.stamp <= slot)
  const body = [put('p', { class: 'quiet' }, nameOf(calendar))]
  if (readings.length) {
    body.push(tableOf(['parameter', 'value', 'unit', 'flag', 'stamp', 'arrived'], readings.map(r => [parameterName(r.parameter), r.value, unitOf(r), flagText(r.flag), clock(r.stamp, true), moment(r.received)])))
  } else if (cell.letter === 'M') {
    body.push(put('p', null, `Nothing arrived for this slot. The board accepts it until ${moment(slot + sevenDays)}.`))
  } else if (cell.letter === '-') {
    body.push(put('p', null, `Nothing arrived for this slot: ${says(cell)}.`))
  }
  const contents = await Promise.all(list.map(r => content(r)))
  if (turn !== detail) return
  for (const parts of contents) body.push(...parts)
  if (!list.length && cell.letter !== 'M' && cell.letter !== '-') body.push(put('p', { class: 'quiet' }, `The request is no longer kept: the console keeps the newest ${kept.toLocaleString('en')} of all devices.`))
  $('detail-body').replaceChildren(...body)
  $('detail-body').scrollTop = 0
  if (!$('detail').open) $('detail').showModal()
}

function outcome(r) {
  const kind = r.stored ? 'd' : r.status === 111 ? 'p' : 'r'
  return put('span', { class: 'badge ' + kind }, r.status === null ? 'none' : r.status)
}

async function content(r) {
  let whole
  try { whole = await get('/console/requests/' + r.id) } catch (e) { return [put('p', { class: 'quiet' }, e.message)] }
  return [
    put('h3', null, `Request at ${moment(r.time)}`),
    put('p', null, outcome(r), ` ${r.http ? 'HTTP ' + r.http : 'no answer'}${r.meaning ? ', ' + r.meaning : ''}${r.stored ? ', stored' : ''}`),
    ...r.reason ? [put('p', null, r.reason)] : [],
    ...whole.payload ? [put('pre', { tabindex: '0', role: 'region', 'aria-label': 'Decrypted JSON' }, marks(whole.payload)), ...whole.cut ? [put('p', { class: 'quiet' }, 'Only the beginning is kept.')] : []]
      : [put('p', { class: 'quiet' }, 'Its body could not be decrypted.')],
  ]
}

async function showOne(r) {
  const turn = ++detail
  openSlot = 0
  $('detail-title').textContent = `Request of ${r.device || 'no device'}`
  $('earlier').hidden = $('later').hidden = true
  $('detail-body').dataset.state = ''
  const parts = await content(r)
  if (turn !== detail) return
  $('detail-body').replaceChildren(...parts)
  $('detail').showModal()
}

$('earlier').addEventListener('click', () => step(-slotLength))
$('later').addEventListener('click', () => step(slotLength))
function step(by) {
  const at = board.cells.findIndex(c => c.stamp === openSlot + by)
  if (at >= 0) { board.rove(at); showSlot(board.cells[at].stamp) }
}
$('detail').addEventListener('close', () => { openSlot = 0; detail++; if (document.activeElement?.matches('.cell')) board.cells[board.current].element.focus() })
$('detail').addEventListener('click', e => { if (e.target === $('detail')) $('detail').close() })

// ---- requests

function passes(r) {
  return (!$('only-device').checked || r.device === chosen.device) && (!$('only-refused').checked || !r.stored)
}

function row(r) {
  const td = (label, ...children) => put('td', { 'data-label': label }, put('div', null, ...children))
  return put('tr', { 'data-id': r.id },
    td('time', sameDay(r.time, now) ? clock(r.time, true) : moment(r.time)),
    td('device', r.device || '–'),
    td('HTTP', r.http || '–'),
    td('status', outcome(r)),
    td('meaning', r.meaning || (r.http ? 'no status in the answer' : 'no answer'), r.stored && r.status !== 1 ? ', but stored' : !r.stored && r.status === 1 ? ', nothing stored' : '', r.reason ? put('span', { class: 'reason' }, r.reason) : ''),
    td('slot', r.first ? `${sameDay(r.first, now) ? '' : date(r.first) + ' '}${clock(r.first)}${r.last > r.first ? ` – ${sameDay(r.first, r.last) ? '' : date(r.last) + ' '}${clock(r.last)}` : ''}` : '–'),
    td('readings', r.readings),
    td('', put('button', { type: 'button', 'aria-label': `JSON of the request of ${r.device || 'no device'} at ${clock(r.time, true)}` }, 'JSON')))
}

function showRequests() {
  newer = 0
  $('newer').textContent = ''
  const list = requests.filter(passes)
  $('requests').tBodies[0].replaceChildren(...list.slice(0, shown).map(row))
  limits(list.length)
}

function limits(n) {
  $('no-requests').hidden = n > 0
  $('no-requests').textContent = requests.length ? 'None of the newest requests matches.' : 'No request yet.'
  $('requests').hidden = n === 0
  $('more').hidden = n <= shown
}

// The rows stay in place while the pointer is on them, so that a click does not hit another request. A finger hovers until the
// next touch.
let mouse = false
for (const e of ['pointermove', 'pointerdown']) addEventListener(e, e => { mouse = e.pointerType !== 'touch' }, { capture: true, passive: true })
const inUse = () => $('requests').tBodies[0].matches(':active, :has(:focus-visible), :root:has(dialog[open]) *' + (mouse ? ', :hover' : ''))
let newer = 0, holding = false

async function hold(n) {
  newer += n
  if (newer) $('newer').textContent = `${plural(newer, 'newer request')} when you leave the list`
  if (holding) return
  holding = true
  await released($('requests'), inUse)
  holding = false
  showRequests()
}

function addRequests(fresh) {
  const known = requests[0]?.id ?? 0
  fresh = fresh.filter(r => r.id > known).reverse()
  if (!fresh.length) return
  requests = [...fresh, ...requests].slice(0, kept)
  const body = $('requests').tBodies[0]
  if (inUse()) return hold(fresh.filter(passes).length)
  body.prepend(...fresh.filter(passes).slice(0, shown).map(row))
  while (body.rows.length > shown) body.lastElementChild.remove()
  limits(requests.filter(passes).length)
}

$('requests').addEventListener('click', e => {
  const id = Number(e.target.closest('button')?.closest('tr').dataset.id)
  const r = requests.find(r => r.id === id)
  if (r) showOne(r)
})
$('more').addEventListener('click', () => { shown += 100; showRequests() })
for (const id of ['only-device', 'only-refused']) $(id).addEventListener('change', () => { shown = 50; showRequests() })

// ---- faults

const meanings = new Map()

let faults = []

async function showFaults(list) {
  faults = list
  await released($('active'))
  if (faults !== list) return
  const focused = document.activeElement?.closest('#active button')?.dataset.id
  $('no-faults').hidden = list.length > 0
  $('clear').hidden = list.length < 2
  $('active').replaceChildren(...list.map(f => put('li', null,
    put('button', { type: 'button', 'data-id': f.id, 'aria-label': `Switch off: ${f.about}` }, 'Switch off'),
    put('b', null, f.about), ' · ', put('bdi', null, f.fault.device || 'all devices'), ` · ${f.fault.count ? plural(f.fault.count, 'request') + ' left' : 'until it is switched off'}`)))
  if (focused) ([...$('active').querySelectorAll('button')].find(b => b.dataset.id === focused) ?? $('active').querySelector('button') ?? $('scope')).focus()
}

const seconds = id => `${Number($(id).value)}s`
const kinds = {
  slow: () => ({ latency: seconds('slow') }),
  status: () => ({ status: Number($('status').value) }),
  500: () => ({ http_status: 500 }),
  429: () => ({ http_status: 429, retry_after: Number($('retry').value) }),
  html: () => ({ html: true }),
  half: () => ({ half: true }),
  close: () => ({ close: true }),
  lost: () => ({ close: true, after_store: true }),
  clock: () => ({ clock_offset: `${Number($('clock').value)}m` }),
}

async function change(path, options) {
  $('fault-error').textContent = ''
  try {
    const answer = await fetch(path, options)
    if (!answer.ok) $('fault-error').textContent = (await answer.text()).trim()
  } catch { $('fault-error').textContent = 'The board does not answer.' }
}

$('fault').addEventListener('submit', e => e.preventDefault())
$('fault').addEventListener('click', e => {
  const kind = e.target.closest('button')?.dataset.fault
  const inputs = e.target.closest('li')?.querySelectorAll('input') ?? []
  if (!kind || ![...inputs, $('count')].every(i => i.reportValidity())) return
  change('/faults', { method: 'POST', headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ device: $('scope').value, count: Number($('count').value), ...kinds[kind]() }) })
})
$('active').addEventListener('click', e => { const id = e.target.closest('button')?.dataset.id; if (id) change('/faults/' + id, { method: 'DELETE' }) })
$('clear').addEventListener('click', () => { $('scope').focus(); change('/faults', { method: 'DELETE' }) })

// ---- events

let stream = null
function listen() {
  if (stream || document.hidden) return
  stream = new EventSource('/console/events')
  stream.onopen = async () => {
    link('live', 'live')
    loadDevices()
    loadCalendar()
    requests = []
    try {
      const list = (await get('/console/requests')).reverse()
      requests = [...requests.filter(r => r.id > (list[0]?.id ?? 0)), ...list].slice(0, kept)
      showRequests()
      if ($('detail').open && openSlot) showSlot(openSlot)
    } catch (e) { console.warn(e.message) }
  }
  stream.onerror = () => {
    link('lost', 'the board does not answer')
    if (stream.readyState === EventSource.CLOSED) { close(); setTimeout(listen, 3000) }
  }
  stream.onmessage = e => {
    const u = JSON.parse(e.data)
    const quarter = ms => Math.floor((ms - 2 * 60000) / slotLength)
    if (quarter(u.now) !== quarter(now)) loadCalendar()
    now = u.now
    for (const [k, n] of Object.entries(u.totals)) $('total-' + k).textContent = n.toLocaleString('en')
    if (u.faults) showFaults(u.faults)
    if (!u.requests.length) return
    addRequests(u.requests)
    loadDevices()
    if (u.skipped || u.requests.some(r => r.device === chosen.device)) loadCalendar()
  }
}
function close() { stream?.close(); stream = null }

// A browser makes only a few connections to one host; a hidden page must not occupy one.
document.addEventListener('visibilitychange', () => { if (document.hidden) { close(); link('wait', 'paused') } else listen() })

$('hours').append(...hours())
document.querySelector('.legend').append(...legend('DPMRC-'))
const about = await get('/console/about')
kept = about.requests_kept
for (const s of about.statuses) meanings.set(s.code, s.meaning)
$('status').replaceChildren(...about.statuses.map(s => put('option', { value: s.code, selected: s.code === 10 }, `${s.code} ${s.meaning}`)))
function follow() {
  const hash = new URLSearchParams(location.hash.slice(1))
  if (hash.get('device')) choose(hash.get('device'), hash.get('parameter') ?? '')
  else if (chosen.device) choose(chosen.device, chosen.parameter) // the link to the calendar
}
addEventListener('hashchange', follow)
follow()
listen()
