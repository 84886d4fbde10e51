-- expunge.lua: remove old entries from the control log, at most a batch, with what is held of them beside it.
--
-- KEYS[1]  {ns:ctl}:log      KEYS[2]  {ns:ctl}:end   KEYS[3]  {ns:ctl}:archive  checkpoint, begins with an id
-- KEYS[4]  {ns:ctl}:latest   KEYS[5]  {ns:ctl}:held  KEYS[6]  {ns:ctl}:again   KEYS[7]  {ns:ctl}:trimmed
-- ARGV[1]  how many ms of entries to keep   ARGV[2]  how many to remove at most
--
-- Returns how many entries went
-- Cost    O(how many went), and a copy of what is held if any did

local time = redis.call('TIME')
local horizon = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[1]
local last = redis.call('GET', KEYS[2])
if not last then return 0 end

local function numbers(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end

local function earlier(a, b)
  local a_ms, a_seq = numbers(a)
  local b_ms, b_seq = numbers(b)
  return a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq)
end

local first_kept = string.format('%.0f-0', math.max(horizon, 0))
for _, safe in ipairs({last, redis.call('GET', KEYS[3]) or last}) do
  if earlier(safe, first_kept) then first_kept = string.match(safe, '^%S+') end
end

local went = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[2] + 1)) do
  if went == tonumber(ARGV[2]) or not earlier(entry[1], first_kept) then
    first_kept = entry[1]
    break
  end
  went = went + 1
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  local latest = fields.s and redis.call('HGET', KEYS[4], fields.s)
  if latest and string.match(latest, '^%S+') == entry[1] then redis.call('HDEL', KEYS[4], fields.s) end
  local again = fields.i and redis.call('HGET', KEYS[6], fields.i)
  if again and string.match(again, '^%S+') == entry[1] then redis.call('HDEL', KEYS[6], fields.i) end
end
if went == 0 then return 0 end

redis.call('INCRBY', KEYS[7], redis.call('XTRIM', KEYS[1], 'MINID', first_kept))
local ms, seq = numbers(first_kept)
local packed = ''
for _ = 1, 4 do packed, seq = string.char(seq % 256) .. packed, math.floor(seq / 256) end
for _ = 1, 6 do packed, ms = string.char(ms % 256) .. packed, math.floor(ms / 256) end
local at, size = 0, redis.call('STRLEN', KEYS[5])
while at < size and redis.call('GETRANGE', KEYS[5], at, at + 9) < packed do at = at + 26 end
if at > 0 then redis.call('SET', KEYS[5], redis.call('GETRANGE', KEYS[5], at, -1)) end
return went
