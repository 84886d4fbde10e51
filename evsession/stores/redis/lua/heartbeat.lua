-- heartbeat.lua: check a worker's position, write its record, return the log's end.
--
-- The record makes it a write on purpose: a primary that has lost its replicas refuses writes but still answers reads.
--
-- KEYS[1]  {ns:NN}:log   KEYS[2]  {ns:NN}:end   KEYS[3]  {ns:NN}:birth   KEYS[4]  {ns:NN}:workers
-- ARGV[1]  worker id   ARGV[2]  id of its position, "" for none   ARGV[3]  event id of its position
-- ARGV[4]  its bound of staleness in ms   ARGV[5]  an incarnation, should the log have none
--
-- Returns {"ok" | "fork" | "trimmed", incarnation, end}; end is "<id> <event id>"
-- Cost    O(log n)

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local birth = redis.call('GET', KEYS[3])
if not birth then
  birth = now .. ' ' .. ARGV[5]
  redis.call('SET', KEYS[3], birth)
end

local function earlier(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_seq) < tonumber(b_seq))
end

local status, position = 'ok', ARGV[2]
if position ~= '' and position ~= '0-0' then
  local entry = redis.call('XRANGE', KEYS[1], position, position)[1]
  if not entry then
    local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    status = (first and earlier(position, first[1])) and 'trimmed' or 'fork'
  else
    local event_id
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'i' then event_id = entry[2][i + 1] end
    end
    if event_id ~= ARGV[3] then status = 'fork' end
  end
end
if status ~= 'ok' or position == '' then position = '0-0' end
redis.call('HSET', KEYS[4], ARGV[1], position .. ' ' .. now .. ' ' .. ARGV[4])
return {status, string.match(birth, '%S+$'), redis.call('GET', KEYS[2]) or ('0-0 ' .. string.rep('\0', 16))}
