-- trim.lua: remove old entries from a log, never the last one, which proves the log's history to the workers.
--
-- Where there is an archive, its last entry proves the history to the archiver, and what follows is not yet safe.
--
-- It counts what it removes, so that whoever verifies the log can tell trimming from tampering.
--
-- KEYS[1]  {ns:NN}:log   KEYS[2]  {ns:NN}:end   KEYS[3]  {ns:NN}:archive  checkpoint, begins with an id
-- KEYS[4]  {ns:NN}:ended, which forgets the sessions whose end went   KEYS[5]  {ns:NN}:trimmed
-- ARGV[1]  how many ms of entries to keep
--
-- Returns how many entries went
-- Cost    O(how many went)

local time = redis.call('TIME')
local horizon = math.max(time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[1], 0)
local last = redis.call('GET', KEYS[2])
if not last then return 0 end

local function earlier(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_seq) < tonumber(b_seq))
end

local first_kept = string.format('%.0f-0', horizon)
for _, safe in ipairs({last, redis.call('GET', KEYS[3]) or last}) do
  if earlier(safe, first_kept) then first_kept = string.match(safe, '^%S+') end
end
local went = redis.call('XTRIM', KEYS[1], 'MINID', '~', first_kept)
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first then redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. string.match(first[1], '^%d+')) end
if went > 0 then redis.call('INCRBY', KEYS[5], went) end
return went
