-- Health of a BrowserSession, for the key resource.customizations.health.camofleet.dev_BrowserSession of argocd-cm.
local conditions = {}
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  conditions[condition.type] = condition
end

local function holds(type)
  return conditions[type] ~= nil and conditions[type].status == "True"
end

local function health(status, type)
  return { status = status, message = conditions[type].reason .. ": " .. conditions[type].message }
end

-- The end comes first: it is final, whatever is edited after it.
if holds("Stalled") then
  return health("Degraded", "Stalled")
end
-- Its time was up, as asked for.
if holds("Finished") then
  return health("Healthy", "Finished")
end

if conditions.Ready == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not answered this generation of the spec yet" }
end
if holds("Ready") then
  return health("Healthy", "Ready")
end
-- It waits or starts. Or Ready is Unknown, as its runner does not answer: the browser may be alive, and within minutes it is
-- Ready again or Stalled. Degraded would make a sync fail for a silence of seconds.
return health("Progressing", "Ready")
