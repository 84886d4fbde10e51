-- commit.lua: append one event and the snapshot it produces, or say why not.
--
-- KEYS[1]  {ns:NN}:s:<sid>  snapshot   KEYS[2]  {ns:NN}:log   KEYS[3]  {ns:NN}:exp
-- KEYS[4]  {ns:NN}:end      KEYS[5]  {ns:NN}:birth   KEYS[6]  {ns:NN}:ended
-- ARGV[1]  sid                 ARGV[2]  expected head, "" to create   ARGV[3]  event id: 12 bytes, and 4 of the attempt
-- ARGV[4]  version of the first attempt when its reply was lost, else "0"
-- ARGV[5]  the worker's part of the header   ARGV[6]  body
-- ARGV[7]  idle ms             ARGV[8]  absolute ms, "0" to leave it  ARGV[9]  type
-- ARGV[10] deadline that must have passed: "idle", "absolute" or ""
-- ARGV[11] actor   ARGV[12] context   ARGV[13] data   ARGV[14] worker's time in ms
-- ARGV[15] the worker's part of the feed message   ARGV[16] channel without incarnation
-- ARGV[17] PUBLISH or SPUBLISH   ARGV[18] an incarnation, should the log have none   ARGV[19] TTL of an ended snapshot, ms
-- ARGV[20] ms that a living snapshot is kept past its absolute deadline
--
-- Returns {"ok", sid, now, id, tail, ""} | {"ok", sid, now, "", "", snapshot} (had happened already)
--         | {"gone", sid, now} | {"alive" | "ended" | "conflict", sid, now, "", "", snapshot}
-- Cost    O(size of the snapshot); of a retry after a lost reply O(events since the first attempt)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local sid, expected, event_id, type_ = ARGV[1], ARGV[2], ARGV[3], ARGV[9]
local found = redis.call('MGET', KEYS[1], KEYS[4], KEYS[5])
local old, last, birth = found[1], found[2], found[3]

local function has_happened()
  local id = string.match(string.sub(old, 102, 125), '^%S+')
  while id and id ~= '0-0' do
    local found = redis.call('XRANGE', KEYS[2], id, id)[1]
    if not found then return false end
    local entry = {}
    for i = 1, #found[2], 2 do entry[found[2][i]] = found[2][i + 1] end
    if string.sub(entry.i, 1, 12) == string.sub(event_id, 1, 12) then return true end
    if tonumber(entry.n) <= tonumber(ARGV[4]) then return false end
    id = entry.p
  end
  return false
end

if not old then
  if expected ~= '' then return {'gone', sid, now} end
elseif string.sub(old, 7, 22) ~= expected then
  if ARGV[4] ~= '0' and has_happened() then return {'ok', sid, now, '', '', old} end
  if string.sub(old, 39, 39) == 'E' then return {'ended', sid, now, '', '', old} end
  return {'conflict', sid, now, '', '', old}
else
  local idle_at, absolute_at = tonumber(string.sub(old, 76, 88)), tonumber(string.sub(old, 89, 101))
  if string.sub(old, 39, 39) == 'E' then return {'ended', sid, now, '', '', old} end
  if type_ ~= 'ended' then
    if now >= idle_at or now >= absolute_at then return {'ended', sid, now, '', '', old} end
  elseif (ARGV[10] == 'idle' and now < idle_at) or (ARGV[10] == 'absolute' and now < absolute_at) then
    return {'alive', sid, now, '', '', old}
  end
end

if not birth then
  birth = string.format('%.0f', now) .. ' ' .. ARGV[18]
  redis.call('SET', KEYS[5], birth)
end
last = last or ('0-0 ' .. string.rep('\0', 16))
local space = string.find(last, ' ', 1, true)
local id = redis.call('XADD', KEYS[2], '*', 't', type_, 's', sid, 'n', tonumber(string.sub(ARGV[5], 40, 49)),
  'p', old and string.match(string.sub(old, 102, 125), '^%S+') or '0-0', 'i', event_id,
  'o', string.format('%.0f', ARGV[14] - now), 'a', ARGV[11], 'c', ARGV[12], 'd', ARGV[13],
  'k', string.sub(ARGV[5], 3, 6), 'm', string.sub(ARGV[5], 7, 22))
redis.call('SET', KEYS[4], id .. ' ' .. event_id)

local stamp = string.format('%013.0f', string.match(id, '^%d+'))
local created = old and string.sub(old, 50, 62) or stamp
local authenticated = type_ == 'authenticated' and stamp or (old and string.sub(old, 63, 75) or '0000000000000')
local idle_at = now + ARGV[7]
local absolute_at = (ARGV[8] ~= '0' or not old) and now + ARGV[8] or tonumber(string.sub(old, 89, 101))
local tail = created .. authenticated .. string.format('%013.0f%013.0f%-24s', idle_at, absolute_at, id)

if type_ == 'ended' then
  redis.call('SET', KEYS[1], ARGV[5] .. tail .. ARGV[6], 'PX', ARGV[19])
  redis.call('ZREM', KEYS[3], sid)
  redis.call('ZADD', KEYS[6], string.match(id, '^%d+'), sid)
else
  redis.call('SET', KEYS[1], ARGV[5] .. tail .. ARGV[6], 'PX', string.format('%.0f', absolute_at - now + ARGV[20]))
  redis.call('ZADD', KEYS[3], string.format('%.0f', math.min(idle_at, absolute_at)), sid)
end

redis.pcall(ARGV[17], ARGV[16] .. string.match(birth, '%S+$'),
  string.sub(last, 1, space) .. id .. ' ' .. #ARGV[15] .. '\n' .. string.sub(last, space + 1) .. ARGV[15])
return {'ok', sid, now, id, tail, ''}
