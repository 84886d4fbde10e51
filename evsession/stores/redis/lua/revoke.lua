-- revoke.lua: append one entry to the control log, once, under an id that trusts no clock.
--
-- KEYS[1]  {ns:ctl}:log     KEYS[2]  {ns:ctl}:end    KEYS[3]  {ns:ctl}:birth
-- KEYS[4]  {ns:ctl}:latest  name -> "id" or "id keep before"
-- KEYS[5]  {ns:ctl}:held    26 bytes for each entry  KEYS[6]  {ns:ctl}:again  event id -> "id data"
-- ARGV[1]  name        ARGV[2]  event id: 12 bytes, and 4 of the attempt   ARGV[3]  sid that is excepted, or ""
-- ARGV[4]  highest id that the caller has seen       ARGV[5]  id from which on to look for the event id
-- ARGV[6]  "1" if the entry is issued again          ARGV[7]  actor   ARGV[8]  context   ARGV[9]  data
-- ARGV[10] worker's time in ms   ARGV[11] key id     ARGV[12] tag     ARGV[13] the worker's part of the feed message
-- ARGV[14] channel without incarnation   ARGV[15] PUBLISH or SPUBLISH   ARGV[16] an incarnation, should the log have none
--
-- Returns {id, event id, now}; of the entry that is there already, if there is one
-- Cost    O(log n + entries since), of which at most 10,000 are looked at

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local name, event_id, keep = ARGV[1], ARGV[2], ARGV[3]

local function numbers(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end

if ARGV[6] == '1' then
  local known = redis.call('HGET', KEYS[6], event_id)
  if known then return {string.match(known, '^%S+'), event_id, now} end
end
local most = ARGV[6] == '1' and 100 or 10000
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[5], '+', 'COUNT', most)) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'i' and string.sub(entry[2][i + 1], 1, 12) == string.sub(event_id, 1, 12) then
      return {entry[1], entry[2][i + 1], now}
    end
  end
end

local found = redis.call('MGET', KEYS[2], KEYS[3])
local last, birth = found[1] or ('0-0 ' .. string.rep('\0', 16)), found[2]
if not birth then
  birth = string.format('%.0f', now) .. ' ' .. ARGV[16]
  redis.call('SET', KEYS[3], birth)
end

local ms, seq = now, 0
for _, seen in ipairs({last, ARGV[4]}) do
  local seen_ms, seen_seq = numbers(seen)
  if seen_ms > ms or (seen_ms == ms and seen_seq >= seq) then ms, seq = seen_ms, seen_seq + 1 end
end
local id = string.format('%.0f-%.0f', ms, seq)

redis.call('XADD', KEYS[1], id, 't', 'named_revoked', 's', name, 'n', 1, 'p', '0-0', 'i', event_id,
  'o', string.format('%.0f', ARGV[10] - now), 'a', ARGV[7], 'c', ARGV[8], 'd', ARGV[9], 'k', ARGV[11], 'm', ARGV[12])
redis.call('SET', KEYS[2], id .. ' ' .. event_id)

local packed = ''
for _ = 1, 4 do packed, seq = string.char(seq % 256) .. packed, math.floor(seq / 256) end
for _ = 1, 6 do packed, ms = string.char(ms % 256) .. packed, math.floor(ms / 256) end
redis.call('APPEND', KEYS[5], packed .. event_id)

if ARGV[6] == '1' then
  redis.call('HSET', KEYS[6], event_id, id .. ' ' .. ARGV[9])
elseif keep == '' then
  redis.call('HSET', KEYS[4], name, id)
else
  local old = redis.call('HGET', KEYS[4], name) or '0-0'
  local old_id, old_keep, old_before = string.match(old, '^(%S+) ?(%S*) ?(%S*)$')
  redis.call('HSET', KEYS[4], name, id .. ' ' .. keep .. ' ' .. (old_keep == keep and old_before or old_id))
end

local space = string.find(last, ' ', 1, true)
redis.pcall(ARGV[15], ARGV[14] .. string.match(birth, '%S+$'),
  string.sub(last, 1, space) .. id .. ' ' .. #ARGV[13] .. '\n' .. string.sub(last, space + 1) .. ARGV[13])
return {id, event_id, now}
